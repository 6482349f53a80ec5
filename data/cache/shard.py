"""One shard of a mask cache on disk: its schema, its name, its bytes, and their check.

A shard is an HDF5 file whose datasets are contiguous, uncompressed, little-endian and 4096-byte
aligned: a reader maps the masks and needs neither HDF5's locks nor its handles. Its name holds the
beginning of its SHA-256, so that a name never gets other bytes.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from data.cli import UsageError
from data.columns import open_sound, own_dataset, own_width, to_bytes

SCHEMA = 2
STATUS = {
    "ok": 0,  # usable
    "unreadable": 1,  # not an image, or its data is broken
    "empty": 2,  # a file of no bytes
    "too_large": 3,  # more pixels than the cap; refused by its header
    "missing": 4,  # listed, but the file could not be read
    "estimator": 5,  # the estimator failed on it
    "no_map": 6,  # estimator `files`: no map on disk for this image
    "truncated": 7,  # cut short or broken so far that the trainer would not use it either
    "crashed": 8,  # the process that worked on it died, alone too
}
STATUS_NAMES = {code: name for name, code in STATUS.items()}
# of the moment, not of the image: the next run tries these rows again
MOMENTARY = [STATUS[name] for name in ("missing", "estimator", "no_map", "crashed")]
QUALITY = ("coverage", "border", "contrast", "entropy")
NAME = re.compile(r"shard-(\d{5,9})-([0-9a-f]{16})\.h5")
REPAIR = "run the same `python -m preprocess` again with --repair, which rebuilds it"

Rows = dict[str, np.ndarray]


class CacheError(UsageError):
    """A cache or shard that cannot be used: the message names the file and says what to do."""


def layout(count: int, side: int) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    """dtype and shape of each column of a shard with `count` rows, as own_dataset takes them.

    `key` (length and mtime in nanoseconds of the image's file, and of the map's file where masks
    come from files) has two or four numbers.
    """
    return {
        "mask": ("|u1", (count, side, side)),
        "path": ("|S", (count,)),
        "key": ("<i8", (count, None)),
        "size": ("<i4", (count, 2)),  # height, width
        "digest": ("|u1", (count, 16)),
        "status": ("|u1", (count,)),
        **{f"quality/{name}": ("<f4", (count,)) for name in QUALITY},
    }


COLUMNS = tuple(layout(0, 0))


def empty_rows(paths: np.ndarray, side: int) -> Rows:
    """Rows of zeros for (N,) byte paths: a shard's columns but for the keys."""
    columns = layout(len(paths), side)
    rows = {name: np.zeros(*columns[name][::-1]) for name in COLUMNS if name != "key"}
    return rows | {"path": own_width(paths)}


def shard_name(number: int, digest: str) -> str:
    """The file name of a shard with the SHA-256 `digest` (hex)."""
    return f"shard-{number:05d}-{digest[:16]}.h5"


def shard_number(name: str) -> int:
    return int(NAME.fullmatch(name)[1])


def shard_bytes(rows: Rows, identity: str) -> bytes:
    """A shard's file as bytes: the same rows give the same bytes.

    Args:
        rows: see layout.
        identity: identity_hash of the cache.
    """
    columns = {name: rows[name] for name in COLUMNS}
    return to_bytes(columns, {"schema": SCHEMA, "identity": identity})


@contextmanager
def open_shard(path: Path) -> Iterator[h5py.File]:
    """The shard opened for reading, its layout checked.

    Raises:
        CacheError: missing, cut short, damaged, or not laid out as `layout` says; also where the
            block fails to read from it.
    """
    with open_sound(path, CacheError, REPAIR) as file:
        schema = file.attrs.get("schema")
        if schema != SCHEMA:
            raise ValueError(f"schema {schema}, this version reads {SCHEMA}")
        count, side, _ = own_dataset(file, "mask", "|u1", (None, None, None)).shape
        for name, (dtype, shape) in layout(count, side).items():
            own_dataset(file, name, dtype, shape)
        yield file


def read_rows(path: Path) -> Rows:
    """All columns of a shard. CacheError where it cannot be read."""
    with open_shard(path) as file:
        return {column: file[column][...] for column in COLUMNS}
