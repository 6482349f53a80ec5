"""A cache's index: every image's path and status, and where the shards' masks begin. Derived from
the shards."""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from pathlib import Path

import h5py
import numpy as np

from data.cache.shard import open_shard, read_checksums, shard_name
from data.io import atomic

UNKNOWN = (
    -1
)  # byte length and mtime of a source that were not noted: its digest tells whether it changed
PROGRESS = ".progress"  # folder in a cache that is being made


def shard_files(description: dict) -> list[str]:
    """The names of a cache's shards in order; cache.json lists them where a later generation made
    some anew."""
    return description.get("files") or [
        shard_name(number) for number in range(description["shards"])
    ]


def load_index(
    folder: Path, description: dict, columns: tuple[str, ...] | None = None
) -> dict[str, np.ndarray]:
    """The index's columns (all where `columns` is None); rebuilt from the shards where index.h5 is
    missing, damaged, or of other shards than CHECKSUMS names.

    Raises:
        CacheError: a shard that the rebuilding needs is missing or damaged.
    """
    index = read_index(folder, description, columns)
    if index is not None:
        return index
    index = build_index(folder, shard_files(description))
    if not (
        folder / PROGRESS
    ).exists():  # or a better one, with the sources, is about to be written
        with contextlib.suppress(OSError):  # a read-only cache is as good, only slower to open
            write_index(folder, index, shard_files(description))
    return index if columns is None else {name: index[name] for name in columns}


def read_index(
    folder: Path, description: dict, columns: tuple[str, ...] | None = None
) -> dict[str, np.ndarray] | None:
    """index.h5's columns, each checked against its CRC-32; None where it is missing, damaged or
    stale."""
    index = {}
    try:
        with h5py.File(folder / "index.h5", "r", locking=False) as file:
            if file.attrs["shards"] != _key(folder, shard_files(description)):
                return None
            for name in columns or tuple(file):
                index[name] = file[name][...]
                if zlib.crc32(index[name].view(np.uint8).reshape(-1)) != file[name].attrs["crc32"]:
                    return None
    except (
        OSError,
        KeyError,
        RuntimeError,
        ValueError,
    ):  # HDF5 raises many kinds on damaged headers
        return None
    return index


def build_index(
    folder: Path, files: list[str], sources: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The index's columns from the shards.

    Args:
        files: names of the shards, in order.
        sources: (N, 2) int64, each image's byte length and mtime in nanoseconds; UNKNOWN where
            None.

    Returns:
        path (N,) bytes, status (N,) uint8, sources (N, 2) int64; of each shard: offset of its masks
        and length of its file in bytes, both int64.
    """
    paths, status, offsets, sizes = [], [], [], []
    for name in files:
        with open_shard(folder / name) as shard:
            paths.append(shard["path"][...])
            status.append(shard["status"][...])
            offsets.append(shard["mask"].id.get_offset())
        sizes.append((folder / name).stat().st_size)
    path = np.concatenate(paths)
    return {
        "path": path,
        "status": np.concatenate(status),
        "offset": np.array(offsets, "<i8"),
        "file_bytes": np.array(sizes, "<i8"),
        "sources": np.full((len(path), 2), UNKNOWN, "<i8")
        if sources is None
        else sources.astype("<i8"),
    }


def write_index(folder: Path, index: dict[str, np.ndarray], files: list[str]) -> None:
    """Write index.h5 atomically; it names the checksums of its shards, so that a stale one is
    noticed."""
    with atomic(folder / "index.h5") as temporary, h5py.File(temporary, "w", locking=False) as file:
        file.attrs["shards"] = _key(folder, files)
        for name, values in index.items():
            dataset = file.create_dataset(name, data=values, track_times=False)
            dataset.attrs["crc32"] = np.uint32(
                zlib.crc32(np.ascontiguousarray(values).view(np.uint8).reshape(-1))
            )


def _key(folder: Path, files: list[str]) -> str:
    checksums = read_checksums(folder)
    return hashlib.sha256(
        "".join(f"{name} {checksums.get(name)}\n" for name in files).encode()
    ).hexdigest()
