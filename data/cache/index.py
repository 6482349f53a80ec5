"""A cache's index.h5: every image's path, status and key, and where the shards' masks begin.

It is derived from the shards, so that opening a cache reads one file instead of thousands.
"""

import contextlib
import zlib
from pathlib import Path

import numpy as np

from data.cache.description import Description, load_description
from data.cache.shard import CacheError, layout, open_shard
from data.columns import open_columns, own_dataset, to_bytes
from data.io import write_bytes

Index = dict[str, np.ndarray]
ROWS = ("path", "status", "key")  # columns of the shards
COLUMNS = (*ROWS, "offset", "file_bytes")


def load_index(folder: Path, description: Description) -> Index:
    """The index, see build_index; rebuilt where index.h5 is missing, damaged, or of other shards.

    Raises:
        CacheError: a shard that the rebuilding needs is missing or damaged.
    """
    index = read_index(folder, description)
    if index is None:
        index = build_index(folder, description)
        with contextlib.suppress(OSError, CacheError):  # a read-only cache is only slower to open
            if load_description(folder) == description:
                write_index(folder, index, description)
    return index


def read_index(folder: Path, description: Description) -> Index | None:
    """index.h5's columns; None where it is missing, damaged or of other shards."""
    shapes = layout(description["images"], 0)
    shapes |= dict.fromkeys(("offset", "file_bytes"), ("<i8", (len(description["shards"]),)))
    with (
        contextlib.suppress(OSError, ValueError),
        open_columns(folder / "index.h5") as file,
    ):
        index = {name: own_dataset(file, name, *shapes[name])[...] for name in COLUMNS}
        if file.attrs["checksum"] == _checksum(index, description):
            return index
    return None


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
            for column in ROWS:
                parts[column].append(shard[column][...])
            parts["offset"].append([shard["mask"].id.get_offset()])
            parts["file_bytes"].append([shard.id.get_filesize()])
    index = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    if len(index["path"]) != count:
        raise CacheError(f"{folder}: its shards hold {len(index['path'])} rows, not {count}")
    return index


def write_index(folder: Path, index: Index, description: Description) -> None:
    """Write index.h5; its checksum is of the shards' names too, so that a stale one is noticed."""
    content = to_bytes(index, {"checksum": _checksum(index, description)})
    write_bytes(folder / "index.h5", content)


def _checksum(index: Index, description: Description) -> int:
    checksum = zlib.crc32("\n".join(description["shards"]).encode())
    for name in COLUMNS:
        checksum = zlib.crc32(np.ascontiguousarray(index[name]).view(np.uint8), checksum)
    return checksum
