"""A cache's index.h5: every image's path, status and key, and where the shards' masks begin.

It is derived from the shards, so that opening a cache reads one file instead of thousands.
"""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from pathlib import Path

import numpy as np

from data.cache.description import Description, load_description
from data.cache.shard import CacheError, open_shard
from data.columns import open_columns, own_dataset, to_bytes
from data.io import write_bytes

Index = dict[str, np.ndarray]
COLUMNS = ("path", "status", "key", "offset", "file_bytes")


def load_index(folder: Path, description: Description, columns: tuple[str, ...] = COLUMNS) -> Index:
    """The index's columns, see build_index; rebuilt where index.h5 is missing, damaged, or of
    other shards.

    Raises:
        CacheError: a shard that the rebuilding needs is missing or damaged.
    """
    index = read_index(folder, description, columns)
    if index is None:
        index = build_index(folder, description)
        with contextlib.suppress(OSError, CacheError):  # a read-only cache is only slower to open
            if load_description(folder) == description:
                write_index(folder, index, description)
    return {name: index[name] for name in columns}


def read_index(
    folder: Path, description: Description, columns: tuple[str, ...] = COLUMNS
) -> Index | None:
    """index.h5's columns, each checked against its CRC-32; None where it is missing, damaged or
    stale."""
    index = {}
    try:
        with open_columns(folder / "index.h5") as file:
            if file.attrs["shards"] != _shards_hash(description):
                return None
            for name in columns:
                dataset = own_dataset(file, name)
                a_shard = name in ("offset", "file_bytes")
                expected = len(description["shards"]) if a_shard else description["images"]
                index[name] = dataset[...]
                if (
                    len(index[name]) != expected
                    or _crc32(index[name]) != file.attrs[f"crc32 {name}"]
                ):
                    return None
    except (OSError, ValueError):
        return None
    return index


def build_index(folder: Path, description: Description) -> Index:
    """The index from the shards.

    Returns:
        path (N,) bytes, status (N,) uint8, key (N, 2 or 4) int64 as in the shards; of each shard
        offset of its masks and length of its file in bytes, both int64.

    Raises:
        CacheError: a shard is missing, damaged, or of another cache.
    """
    identity, count = description["identity"], description["images"]
    mask_shape = (identity["side"], identity["side"])
    key_width = 4 if identity["estimator"] == "files" else 2
    parts: dict[str, list] = {name: [] for name in COLUMNS}
    for name in description["shards"]:
        with open_shard(folder / name) as shard:
            if shard["mask"].shape[1:] != mask_shape or shard["key"].shape[1] != key_width:
                raise CacheError(f"{folder / name}: is a shard of another cache")
            for column in ("path", "status", "key"):
                parts[column].append(shard[column][...])
            parts["offset"].append([shard["mask"].id.get_offset()])
            parts["file_bytes"].append([shard.id.get_filesize()])
    index = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    if len(index["path"]) != count:
        raise CacheError(f"{folder}: its shards hold {len(index['path'])} rows, not {count}")
    return index | {name: index[name].astype("<i8") for name in ("offset", "file_bytes")}


def write_index(folder: Path, index: Index, description: Description) -> None:
    """Write index.h5; it names its shards, so that a stale one is noticed, and has a checksum of
    each column."""
    checksums = {f"crc32 {name}": _crc32(values) for name, values in index.items()}
    content = to_bytes(index, {"shards": _shards_hash(description), **checksums})
    write_bytes(folder / "index.h5", content)


def _crc32(values: np.ndarray) -> np.uint32:
    return np.uint32(zlib.crc32(np.ascontiguousarray(values).view(np.uint8).reshape(-1)))


def _shards_hash(description: Description) -> str:
    return hashlib.sha256("\n".join(description["shards"]).encode()).hexdigest()
