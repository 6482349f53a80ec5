"""Columns of numbers in HDF5: written as bytes, and read only where they lie in their file."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from data.cli import UsageError
from data.io import is_own

ALIGNMENT = 4096  # a column begins at a page of its own
# bytes of a path: rows are as wide as the longest, so one absurd path would cost gigabytes
LONGEST = 1024


def to_bytes(columns: dict[str, np.ndarray], attributes: dict[str, object] | None = None) -> bytes:
    """An HDF5 file with these contiguous columns. Same columns, same bytes.

    It is laid out in memory: its SHA-256 is of what was meant, and a full disk is an OSError of
    whoever writes it.
    """
    layout = {"alignment_threshold": 1, "alignment_interval": ALIGNMENT}
    with h5py.File("memory", "w", driver="core", backing_store=False, **layout) as file:
        file.attrs.update(attributes or {})
        for name, values in columns.items():
            file.create_dataset(name, data=np.ascontiguousarray(values), track_times=False)
        file.flush()
        return file.id.get_file_image()


@contextmanager
def open_columns(path: str | os.PathLike) -> Iterator[h5py.File]:
    """Open an HDF5 file that may come from elsewhere; `own_dataset` reads it.

    Raises:
        ValueError: damaged, no HDF5 file, or none of its folder; whatever kind HDF5 raises within
            the block.
        OSError: with errno: missing, no rights, a failing disk.
    """
    try:
        if os.path.lexists(path) and not is_own(path):
            raise ValueError("no file of this folder")
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, KeyError, RuntimeError, ValueError, IndexError, TypeError) as error:
        if isinstance(error, OSError) and error.errno:
            raise type(error)(error.errno, os.strerror(error.errno), os.fspath(path)) from error
        raise ValueError(" ".join(str(error).split())[:120]) from error


@contextmanager
def open_sound(path: Path, error: type[UsageError], repair: str) -> Iterator[h5py.File]:
    """As open_columns, with an `error` that names the file and says how to repair it where it is
    missing or damaged."""
    try:
        with open_columns(path) as file:
            yield file
    except FileNotFoundError:
        raise error(f"{path} is missing: {repair}") from None
    except ValueError as reason:
        raise error(f"{path} is damaged or cut short ({reason}): {repair}") from reason


def own_dataset(
    file: h5py.File, name: str, dtype: str, shape: tuple[int | None, ...]
) -> h5py.Dataset:
    """A dataset whose values are plain numbers or bytes in one piece of this very file.

    Args:
        dtype: as numpy writes it; "|S" is of any width up to LONGEST.
        shape: None for an axis of any length.

    Raises:
        ValueError: a link, a chunked, virtual or external dataset, one of another dtype or shape,
            or one that claims to be longer than the file: memory would be taken, or another file be
            read.
    """
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        if not isinstance(file.get("/".join(parts[:depth]), getlink=True), h5py.HardLink):
            raise ValueError(f"{name}: missing, or a link to elsewhere")
    values = file[name]
    if not isinstance(values, h5py.Dataset) or values.shape is None:
        raise ValueError(f"{name}: no column of numbers")
    text = values.dtype.kind == "S" and values.dtype.itemsize <= LONGEST
    own = "|S" if text else values.dtype.str
    fits = [wanted in (None, length) for wanted, length in zip(shape, values.shape, strict=False)]
    if own != dtype or len(shape) != values.ndim or not all(fits):
        raise ValueError(f"{name}: is {values.dtype} {values.shape}")
    plan = values.id.get_create_plist()
    if plan.get_layout() != h5py.h5d.CONTIGUOUS or plan.get_external_count():
        raise ValueError(f"{name}: not in one piece of this file")
    length = values.dtype.itemsize * int(np.prod(values.shape, dtype=object))
    place = values.id.get_offset()
    if length and (place is None or place + length > os.path.getsize(file.filename)):
        raise ValueError(f"{name}: longer than the file")
    return values


def own_width(paths: np.ndarray) -> np.ndarray:
    """(N,) bytes, copied, as wide as the longest of them: a file's bytes do not depend on the paths
    in other files."""
    return paths.astype(f"S{max(1, int(np.char.str_len(paths).max(initial=1)))}")
