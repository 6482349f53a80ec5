"""The mask cache as its readers see it: find a row by path, get its mask from a memory map."""

import os
from pathlib import Path

import numpy as np

from data.cache.description import Description, load_description
from data.cache.index import load_index
from data.cache.shard import REPAIR, STATUS, CacheError, open_shard
from data.cli import note
from data.io import is_own, map_bytes
from data.sources.base import Images

LOOKED = 1000  # masks of many that stand for all of them
OPEN_MAPS = 16384  # the kernel allows a process 65,530


class Cache:
    """A mask cache, read through memory maps.

    A reader keeps the shards that it was opened on, also where the cache is brought up to date
    meanwhile: those stay on the disk until `python -m data clean`. It pickles to the folder's path
    and the description, never to an array: a worker opens its own maps on first use.

    Attributes:
        side: S, the masks' side in pixels.
        paths: (N,) bytes, sorted.
        status: (N,) uint8, codes of data.cache.shard.STATUS; 0 = usable.
        keys: (N, 2 or 4) int64, length and mtime of the files that masks were made of.
        identity: how the masks were made.

    Raises:
        CacheError: no cache, unfinished, or a shard missing or cut short.
    """

    def __init__(self, folder: str | os.PathLike, description: Description | None = None):
        self.folder = Path(folder)
        self.description = description or load_description(self.folder)
        self.identity = self.description["identity"]
        self.side = self.identity["side"]
        self.shard_size = self.description["shard_size"]
        self.files = self.description["shards"]
        index = load_index(self.folder, self.description)
        self.paths = index["path"]
        self.status = index["status"]
        self.keys = index["key"]
        self._offsets = index["offset"].tolist()
        self._maps: dict[int, np.ndarray] = {}
        for shard, expected in enumerate(index["file_bytes"].tolist()):
            self._check_length(shard, expected)

    def _check_length(self, shard: int, expected: int) -> None:
        """Reading a map past the end of its file is a SIGBUS, not an exception."""
        file = self.folder / self.files[shard]
        if not is_own(file):
            raise CacheError(f"{file} is missing, or a link that leads out of its folder: {REPAIR}")
        length = file.stat().st_size
        masks_end = self._offsets[shard] + self._count(shard) * self.side**2
        if length < max(expected, masks_end) or self._offsets[shard] < 0:
            raise CacheError(f"{file} is cut short ({length} of {expected} bytes): {REPAIR}")

    def _count(self, shard: int) -> int:
        return min(self.shard_size, len(self) - shard * self.shard_size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getstate__(self) -> dict:
        return {"folder": str(self.folder), "description": self.description}

    def __setstate__(self, state: dict) -> None:
        try:
            self.__init__(state["folder"], state["description"])
        except CacheError:
            self._check_current()
            raise

    def _check_current(self) -> None:
        """CacheError where another cache has taken this one's place, whose shards may be gone."""
        if load_description(self.folder) != self.description:
            raise CacheError(
                f"{self.folder}: its old shards were removed while they were read; start again"
            )

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
            first = ", ".join(os.fsdecode(path) for path in paths[missing[:5]].tolist())
            raise CacheError(
                f"{self.folder} lacks the masks of {len(missing)} of the run's {len(paths)} images "
                f"(first: {first}): run `python -m preprocess` on this image folder"
            )
        return rows

    def changed(self, rows: np.ndarray, images: Images) -> np.ndarray:
        """(M, 2) bool: whether the image of each row now has another length, and another mtime,
        than when its mask was made."""
        return images.stat() != self.keys[rows, :2]

    def note_other_files(self, rows: np.ndarray, images: Images) -> None:
        """Note it where most of the images of `rows` are other files than their masks were made of:
        copies of the same pictures, or others with the same names. Up to LOOKED of them are looked
        at."""
        usable = np.flatnonzero(self.status[rows] == 0)
        places = usable[evenly_spaced(len(usable), LOOKED)]
        images = images.take(places)
        status = images.stat()
        other = (status != self.keys[rows[places], :2]) & (status[:, :1] > 0)  # 0: gone for now
        other = np.flatnonzero(other.all(1))
        if 2 * len(other) > len(places):
            note(
                f"{self.folder}: {len(other):,} of {len(places):,} masks looked at were made of "
                f"other files than those in {images.root} (first: {images.name(other[0])}); right "
                "only where these are copies of the same pictures"
            )

    def mask(self, row: int) -> np.ndarray:
        """Row's mask, (S, S) uint8, 0 = background .. 255 = foreground: a read-only view of the
        map."""
        shard, local = divmod(int(row), self.shard_size)
        masks = self._maps.get(shard)
        return (self._open(shard) if masks is None else masks)[local]

    def _open(self, shard: int) -> np.ndarray:
        if len(self._maps) >= OPEN_MAPS:
            self._maps.clear()
        count = self._count(shard)
        file = self.folder / self.files[shard]
        try:
            flat = map_bytes(file, self._offsets[shard], count * self.side**2)
        except (OSError, ValueError) as error:
            self._check_current()
            raise CacheError(f"{file} cannot be read any more ({error}): {REPAIR}") from error
        masks = self._maps[shard] = flat.reshape(count, self.side, self.side)
        return masks

    def column(self, name: str) -> np.ndarray:
        """A whole column (`size`, `digest`, `quality/coverage`, ...) of all shards."""
        parts = []
        for file in self.files:
            with open_shard(self.folder / file) as shard:
                parts.append(shard[name][...])
        return np.concatenate(parts)


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """At most `most` of the numbers 0 .. count - 1."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)


def failures(paths: np.ndarray, status: np.ndarray) -> list[tuple[str, int]]:
    """(path, status code) of every image whose status is not 0."""
    return [(os.fsdecode(paths[i]), int(status[i])) for i in np.flatnonzero(status)]


def status_counts(status: np.ndarray) -> dict[str, int]:
    """{status name: number of images}, every name of STATUS that occurs."""
    counts = np.bincount(status, minlength=len(STATUS)).tolist()
    return {name: count for name, count in zip(STATUS, counts, strict=False) if count}
