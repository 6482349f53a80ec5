"""What a run has to do: which shards stay, which rows are copied, which images are computed.

A row is known again by its path and its key, see preprocess.recipe.Recipe.keys; where the key
differs, by the digest of the contents.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.cache.shard import MOMENTARY, NAME, CacheError, open_shard, shard_number
from data.checksums import problem, problems, read_checksums
from data.sources.images import ImageError, Images
from preprocess.recipe import Recipe, read_source


@dataclass(frozen=True)
class Source:
    """What a run makes masks of, and how.

    Attributes:
        keys: (N, K) int64, see Recipe.keys.
        shard_size: rows a shard.
    """

    images: Images
    keys: np.ndarray
    recipe: Recipe
    shard_size: int

    @property
    def shards(self) -> int:
        return -(-len(self.images) // self.shard_size)

    def files(self) -> list[str]:
        """Absolute paths of what it is read from, as far as they exist here: the folder or tar, the
        first image, maps, weights."""
        first = os.path.join(self.images.root, os.fsdecode(self.images.paths[0]))
        paths = (self.images.root, first, self.recipe.maps, self.recipe.weights)
        return [path for path in paths if path and os.path.exists(path)]

    def rows(self, number: int) -> slice:
        """The images of shard `number`."""
        first = number * self.shard_size
        return slice(first, min(first + self.shard_size, len(self.images)))


@dataclass(frozen=True)
class Existing:
    """A readable shard on the disk: its columns, and when its file was written."""

    name: str
    paths: np.ndarray
    keys: np.ndarray
    digests: np.ndarray
    status: np.ndarray
    written: int

    @property
    def momentary(self) -> np.ndarray:
        """(N,) bool: rows that are to be tried again."""
        return np.isin(self.status, MOMENTARY)

    def holds(self, source: Source, rows: slice) -> bool:
        """Whether its rows are those images in that state."""
        return np.array_equal(self.paths, source.images.paths[rows]) and np.array_equal(
            self.keys, source.keys[rows]
        )


@dataclass
class Work:
    """One shard to write.

    Attributes:
        rows: its part of the run's images.
        compute: (K,) rows of the run to compute.
        copies: (file name, rows in it, rows of the run) to copy.
        before: the shard whose rows with a status of the moment are tried again, if it is that.
    """

    number: int
    rows: slice
    compute: np.ndarray
    copies: list[tuple[str, np.ndarray, np.ndarray]] = field(default_factory=list)
    before: Existing | None = None


def existing_shards(folder: Path, identity: str, damaged: Iterable[str] = ()) -> list[Existing]:
    """Every readable shard of the identity (its hash) in the folder, finished or in progress."""
    shards = []
    for file in sorted(folder.glob("shard-*.h5")):
        if not NAME.fullmatch(file.name) or file.name in damaged:
            continue
        try:
            with open_shard(file) as shard:
                if shard.attrs["identity"] != identity:
                    continue
                columns = [shard[name][...] for name in ("path", "key", "digest", "status")]
            written = file.stat().st_mtime_ns
        except (CacheError, OSError):
            continue
        shards.append(Existing(file.name, *columns, written))
    return shards


def best(shards: Iterable[Existing], current: Iterable[str] = ()) -> Existing | None:
    """Of shards with the same rows the one with the fewest that are to be tried again, then one of
    the `current` cache, then the latest."""
    return min(
        shards,
        key=lambda s: (int(s.momentary.sum()), s.name not in current, -s.written, s.name),
        default=None,
    )


class Plan:
    """Decides what to keep, copy and compute.

    Args:
        folder: of the cache.
        existing: see existing_shards.
        current: names of the finished cache's shards.
        contents: compare all contents with the rows' digests, not only where keys differ.

    Attributes:
        kept: {shard number: name of a shard that stays}.
        work: the shards to write.
    """

    def __init__(
        self,
        folder: Path,
        source: Source,
        existing: list[Existing],
        current: list[str],
        contents: bool = False,
    ):
        self.folder = folder
        self.source = source
        self.existing = sorted(existing, key=lambda s: (s.name not in current, -s.written))
        self.current = set(current)
        self.contents = contents
        self.kept: dict[int, str] = {}
        self.work: list[Work] = []
        self.bar = tqdm(desc="comparing contents", unit="img", delay=2, leave=False)

    @property
    def rows(self) -> int:
        """Rows of all shards that are written."""
        return sum(work.rows.stop - work.rows.start for work in self.work)

    @property
    def computed(self) -> int:
        return sum(len(work.compute) for work in self.work)

    def make(self, numbers: Iterable[int]) -> Plan:
        """Plan these shards."""
        by_number: dict[int, list[Existing]] = {}
        for shard in self.existing:
            by_number.setdefault(shard_number(shard.name), []).append(shard)
        for number in numbers:
            rows = self.source.rows(number)
            held = [s for s in by_number.get(number, []) if s.holds(self.source, rows)]
            if self.contents:
                held = [s for s in held if self._unchanged(s, *_all_rows(rows)).all()]
            shard = best(held, self.current)
            if shard is not None and not shard.momentary.any():
                self.kept[number] = shard.name
            else:
                self.work.append(Work(number, rows, _all_rows(rows)[1], before=shard))
        self._find_copies()
        self.bar.close()
        return self

    def _find_copies(self) -> None:
        """Move the rows that some shard has, and whose image is unchanged, from `compute` to
        `copies`."""
        if not self.work or not self.existing:
            return
        wanted = np.concatenate([work.compute for work in self.work])
        origin = np.full(len(self.source.images), -1, np.int32)  # number of the shard to copy from
        place = np.zeros(len(self.source.images), np.int64)  # and the row in it
        checksums = read_checksums(self.folder)
        for i, shard in enumerate(self.existing):
            local, rows = self._known(shard, wanted[origin[wanted] < 0])
            # a flipped bit must not travel into a new shard
            if not len(rows) or problem(self.folder, shard.name, checksums):
                continue
            same = self._unchanged(shard, local, rows)
            origin[rows[same]] = i
            place[rows[same]] = local[same]
        for work in self.work:
            origins = origin[work.compute]
            for i in np.unique(origins[origins >= 0]).tolist():
                rows = work.compute[origins == i]
                work.copies.append((self.existing[i].name, place[rows], rows))
            work.compute = work.compute[origins < 0]

    def _known(self, shard: Existing, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the run's `rows` those whose path the shard has with a lasting status: its rows, and
        the run's."""
        paths = self.source.images.paths[rows]
        local = np.minimum(np.searchsorted(shard.paths, paths), len(shard.paths) - 1)
        hit = (shard.paths[local] == paths) & ~shard.momentary[local]
        return local[hit], rows[hit]

    def _unchanged(self, shard: Existing, local: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(K,) bool, for rows `local` of the shard and `rows` of the run with the same paths:
        whether the image is still the one that the mask was made of."""
        same = (shard.keys[local] == self.source.keys[rows]).all(1)
        if self.contents:
            same &= shard.momentary[local]
        for i in np.flatnonzero(~same).tolist():
            try:
                digest = read_source(self.source.images, int(rows[i]), self.source.recipe)[1]
            except ImageError:
                continue
            same[i] = np.array_equal(digest, shard.digests[local[i]])
            self.bar.update()
        return same


def _all_rows(rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """Rows in a shard, and of the run."""
    return np.arange(rows.stop - rows.start), np.arange(rows.start, rows.stop)


def damaged_shards(folder: Path, current: Iterable[str]) -> dict[str, str]:
    """{file name: what is wrong} of all shards in a folder, finished or in progress, each read
    whole."""
    names = {file.name for file in folder.glob("shard-*.h5") if NAME.fullmatch(file.name)}
    bar = tqdm(sorted(names.union(current)), desc="checking shards", unit="shard", leave=False)
    return {name: text for name, text in problems(folder, bar) if text}
