"""The mask cache as its readers see it: find a row by path, get its mask from a memory map."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path

import numpy as np

from data.cache.index import build_index, load_index, shard_files, write_index
from data.cache.shard import (
    REPAIR,
    STATUS,
    CacheError,
    identity_hash,
    open_shard,
    problem,
    read_checksums,
)
from data.io import map_bytes

__all__ = [
    "STATUS",
    "Cache",
    "CacheError",
    "build_index",
    "failures",
    "load_description",
    "load_index",
    "old_description",
    "status_counts",
    "verify",
    "write_index",
]
OPEN_MAPS = 16384  # the kernel allows a process 65,530


def old_description(folder: Path, generation: int) -> Path:
    """Where the description of a generation that readers may still have open is kept."""
    return folder / f"cache.{generation}.json"


def load_description(folder: Path, generation: int | None = None) -> dict:
    """cache.json as a dict, or that of an older generation which is still there.

    Raises:
        CacheError: the folder is no cache, holds another generation, or its cache.json is damaged.
    """
    return _open_description(folder, generation)[1]


def _open_description(folder: Path, generation: int | None = None) -> tuple[int, dict]:
    """An open descriptor of the description's file, and the description."""
    file = folder / "cache.json"
    for place in (file, *([] if generation is None else [old_description(folder, generation)])):
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            description = json.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
            whole = description["identity_hash"] == identity_hash(description["identity"])
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            os.close(descriptor)
            raise CacheError(
                f"{place}: damaged (its identity does not match its hash); delete it and run the same "
                "`python -m preprocess` again"
            )
        if generation in (None, description.get("generation", 1)):
            return descriptor, description
        os.close(descriptor)
    if file.exists():
        raise CacheError(
            f"{folder}: the cache was brought up to date meanwhile (generation {generation} is gone); "
            "start again"
        )
    raise CacheError(
        f"{folder}: no mask cache here (no cache.json); make one with `python -m preprocess IMAGES "
        f"{folder}`"
    )


class Cache:
    """A finished mask cache, read through memory maps.

    A reader that is open keeps its generation: `python -m preprocess` leaves the old shards in
    place as long as one is.

    Attributes:
        side: S, the masks' side in pixels.
        paths: (N,) bytes, sorted.
        status: (N,) uint8, codes of data.cache.shard.STATUS; 0 = usable.
        identity: how the masks were made (dict).

    Pickles to its folder's path and generation, never to an array: a worker opens its own maps on
    first use.

    Raises:
        CacheError: no cache, unfinished, or a shard missing or cut short.
    """

    def __init__(self, folder: str | os.PathLike, generation: int | None = None):
        self._descriptor = None
        self.folder = Path(folder)
        self._descriptor, self.description = _open_description(self.folder, generation)
        with contextlib.suppress(OSError):  # some file systems have no locks
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        if not self.description["complete"]:
            raise CacheError(
                f"{self.folder}: the cache is unfinished; run the same `python -m preprocess` again, "
                "it continues"
            )
        self.identity = self.description["identity"]
        self.side = self.identity["side"]
        self.shard_size = self.description["shard_size"]
        self.files = shard_files(self.description)
        index = load_index(
            self.folder, self.description, ("path", "status", "offset", "file_bytes")
        )
        self.paths, self.status = index["path"], index["status"]
        self._offsets = index["offset"]
        for name, expected in zip(self.files, index["file_bytes"].tolist(), strict=True):
            file = self.folder / name
            found = file.stat().st_size if file.exists() else -1
            if (
                found < expected
            ):  # reading a map past the end of its file is a SIGBUS, not an exception
                raise CacheError(
                    f"{file} is {'missing' if found < 0 else f'cut short ({found} of {expected} bytes)'}"
                    f": {REPAIR}"
                )
        self._maps: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __del__(self):
        if self._descriptor is not None:
            os.close(self._descriptor)

    def __getstate__(self) -> dict:
        return {"folder": str(self.folder), "generation": self.description.get("generation", 1)}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["folder"], state["generation"])

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
            raise CacheError(
                f"{self.folder} lacks the masks of {len(missing)} of the run's {len(paths)} images "
                f"(first: {first}): run `python -m preprocess` on this image folder"
            )
        return rows

    def mask(self, row: int) -> np.ndarray:
        """Row's mask, (S, S) uint8, 0 = background .. 255 = foreground: a read-only view of the
        map."""
        shard, local = divmod(int(row), self.shard_size)
        masks = self._maps.get(shard)
        return (self._open(shard) if masks is None else masks)[local]

    def _open(self, shard: int) -> np.ndarray:
        if len(self._maps) >= OPEN_MAPS:
            self._maps.clear()
        count = min(self.shard_size, len(self) - shard * self.shard_size)
        file = self.folder / self.files[shard]
        try:
            flat = map_bytes(file, int(self._offsets[shard]), count * self.side * self.side)
        except (OSError, ValueError) as error:
            raise CacheError(f"{file} cannot be read any more ({error}): {REPAIR}") from error
        masks = self._maps[shard] = flat.reshape(count, self.side, self.side)
        return masks

    def column(self, name: str) -> np.ndarray:
        """A whole column (`size`, `digest`, `quality/coverage`, ...) of all shards, read by
        HDF5."""
        parts = []
        for file in self.files:
            with open_shard(self.folder / file) as shard:
                parts.append(shard[name][...])
        return np.concatenate(parts)

    def failed(self) -> list[tuple[str, int]]:
        """(path, status code) of every image that is not usable."""
        return failures(self.paths, self.status)


def failures(paths: np.ndarray, status: np.ndarray) -> list[tuple[str, int]]:
    """(path, status code) of every image whose status is not 0."""
    return [(os.fsdecode(paths[i]), int(status[i])) for i in np.flatnonzero(status)]


def verify(folder: str | os.PathLike):
    """Check every shard of a cache against CHECKSUMS; yields (file name, None or what is wrong), in
    order.

    SHA-256 of the whole file finds a flipped bit anywhere, in the headers too.
    """
    folder = Path(folder)
    checksums = read_checksums(folder)
    for name in shard_files(load_description(folder)):
        yield name, problem(folder, name, checksums)


def status_counts(status: np.ndarray) -> dict[str, int]:
    """{status name: number of images}, every name of STATUS that occurs."""
    return {
        name: int((status == code).sum()) for name, code in STATUS.items() if (status == code).any()
    }
