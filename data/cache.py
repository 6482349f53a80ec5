"""The mask cache as its readers see it: find a row by path, get its mask from a memory map."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import OrderedDict
from pathlib import Path

import h5py
import numpy as np

from data.shards import (
    STATUS,
    CacheError,
    open_shard,
    read_checksums,
    replace,
    sha256,
    shard_name,
)

OPEN_MAPS = 128  # each map holds a descriptor: a thousand shards must work at `ulimit -n 256`


def load_description(folder: Path) -> dict:
    """cache.json as a dict. CacheError where the folder is no cache."""
    try:
        return json.loads((folder / "cache.json").read_text())
    except FileNotFoundError:
        raise CacheError(f"{folder}: no mask cache here (no cache.json); make one with "
                         f"`python -m preprocess IMAGES {folder}`") from None
    except ValueError:
        raise CacheError(f"{folder / 'cache.json'}: not valid JSON; make the cache anew") from None


class Cache:
    """A finished mask cache, read through memory maps.

    Attributes:
        side: S, the masks' side in pixels.
        paths: (N,) bytes, sorted.
        status: (N,) uint8, codes of data.shards.STATUS; 0 = usable.
        identity: how the masks were made (dict).

    Pickles to its folder's path, never to an array: a forked or spawned worker opens its own maps on first use.

    Raises:
        CacheError: no cache, unfinished, or a shard missing or cut short.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.description = load_description(self.folder)
        if not self.description["complete"]:
            raise CacheError(f"{self.folder}: the cache is unfinished; run the same `python -m preprocess` again, "
                             "it continues")
        self.identity = self.description["identity"]
        self.side = self.identity["side"]
        self.shard_size = self.description["shard_size"]
        index = load_index(self.folder, self.description)
        self.paths, self.status = index["path"], index["status"]
        self._offsets = index["offset"]
        for number, expected in enumerate(index["file_bytes"].tolist()):
            file = self.folder / shard_name(number)
            found = file.stat().st_size if file.exists() else -1
            if found < expected:  # reading a map past the end of its file is a SIGBUS, not an exception
                raise CacheError(f"{file} is {'missing' if found < 0 else f'cut short ({found} of {expected} bytes)'}"
                                 ": delete it and run the same `python -m preprocess` again, which makes it anew")
        self._maps: OrderedDict[int, np.memmap] = OrderedDict()

    def __len__(self) -> int:
        return len(self.paths)

    def __getstate__(self) -> dict:
        return {"folder": str(self.folder)}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["folder"])

    def find(self, paths: np.ndarray) -> np.ndarray:
        """(M,) int64 rows of `paths` ((M,) bytes); -1 where the cache has no such image."""
        rows = np.searchsorted(self.paths, paths)
        rows = np.minimum(rows, len(self.paths) - 1)
        return np.where(self.paths[rows] == paths, rows, -1)

    def require(self, paths: np.ndarray) -> np.ndarray:
        """As find, but CacheError (how many, the first five) where any is missing."""
        rows = self.find(paths)
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            first = ", ".join(os.fsdecode(p) for p in paths[missing[:5]].tolist())
            raise CacheError(f"{self.folder} lacks the masks of {len(missing)} of the run's {len(paths)} images "
                             f"(first: {first}): run `python -m preprocess` on this image folder")
        return rows

    def mask(self, row: int) -> np.ndarray:
        """Row's mask, (S, S) uint8, 0 = background .. 255 = foreground: a read-only view of the map."""
        shard, local = divmod(int(row), self.shard_size)
        masks = self._maps.get(shard)
        if masks is None:
            masks = self._open(shard)
        else:
            self._maps.move_to_end(shard)
        return masks[local]

    def _open(self, shard: int) -> np.ndarray:
        count = min(self.shard_size, len(self) - shard * self.shard_size)
        mapped = np.memmap(self.folder / shard_name(shard), np.uint8, "r", int(self._offsets[shard]),
                           (count, self.side, self.side))
        masks = self._maps[shard] = mapped.view(np.ndarray)  # plain ndarray: indexing a memmap is 5x slower
        if len(self._maps) > OPEN_MAPS:
            self._maps.popitem(last=False)
        return masks

    def column(self, name: str) -> np.ndarray:
        """A whole column (`size`, `digest`, `quality/coverage`, ...) of all shards, read by HDF5."""
        parts = []
        for number in range(self.description["shards"]):
            with open_shard(self.folder / shard_name(number)) as file:
                parts.append(file[name][...])
        return np.concatenate(parts)

    def failed(self) -> list[tuple[str, int]]:
        """(path, status code) of every image that is not usable."""
        return [(os.fsdecode(self.paths[i]), int(self.status[i])) for i in np.flatnonzero(self.status)]


def load_index(folder: Path, description: dict) -> dict[str, np.ndarray]:
    """index.h5's columns; rebuilt from the shards where it is missing, damaged or older than they are."""
    try:
        with h5py.File(folder / "index.h5", "r", locking=False) as file:
            if file.attrs["checksums"] == _checksums_hash(folder):
                return {name: file[name][...] for name in file}
    except (OSError, KeyError):
        pass
    index = build_index(folder, description["shards"])
    with contextlib.suppress(OSError):  # a read-only cache is as good, only slower to open
        write_index(folder, index)
    return index


def build_index(folder: Path, shards: int, sources: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The index's columns from the shards.

    Args:
        sources: (N, 2) int64, each image's byte length and mtime in nanoseconds; zeros (unknown) where None.
    """
    paths, status, offsets, sizes = [], [], [], []
    for number in range(shards):
        file = folder / shard_name(number)
        with open_shard(file) as shard:
            paths.append(shard["path"][...])
            status.append(shard["status"][...])
            offsets.append(shard["mask"].id.get_offset())
        sizes.append(file.stat().st_size)
    path = np.concatenate(paths)
    return {
        "path": path,
        "status": np.concatenate(status),
        "offset": np.array(offsets, "<i8"),
        "file_bytes": np.array(sizes, "<i8"),
        "sources": np.zeros((len(path), 2), "<i8") if sources is None else sources.astype("<i8"),
    }


def write_index(folder: Path, index: dict[str, np.ndarray]) -> None:
    """Write index.h5 atomically; it names the CHECKSUMS it belongs to, so that a stale one is noticed."""
    temporary = folder / f"index.{os.getpid()}.tmp"
    with h5py.File(temporary, "w") as file:
        file.attrs["checksums"] = _checksums_hash(folder)
        for name, values in index.items():
            file.create_dataset(name, data=values, track_times=False)
    replace(temporary, folder / "index.h5")


def _checksums_hash(folder: Path) -> str:
    try:
        return hashlib.sha256((folder / "CHECKSUMS").read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""


def verify(folder: str | os.PathLike):
    """Check every shard of a cache against CHECKSUMS; yields (file name, None or what is wrong), in order.

    SHA-256 of the whole file finds a flipped bit anywhere, in the headers too.
    """
    folder = Path(folder)
    description = load_description(folder)
    checksums = read_checksums(folder)
    for number in range(description["shards"]):
        name = shard_name(number)
        if not (folder / name).exists():
            yield name, "missing"
        elif name not in checksums:
            yield name, "has no line in CHECKSUMS"
        elif sha256(folder / name) != checksums[name]:
            yield name, "does not match its checksum: damaged since it was written"
        else:
            yield name, None


def status_counts(status: np.ndarray) -> dict[str, int]:
    """{status name: number of images}, every name of STATUS that occurs."""
    return {name: int((status == code).sum()) for name, code in STATUS.items() if (status == code).any()}
