"""What a run has to do: which shards stay, which rows are copied, which images are computed.

A row is known again by its path and its key, see preprocess.recipe.Recipe.keys; where the key
differs, by the digest of the contents.
"""

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
        first = os.path.join(self.images.root, self.images.name(0))
        paths = (self.images.root, first, self.recipe.maps, self.recipe.weights)
        return [path for path in paths if path and os.path.exists(path)]

    def rows(self, number: int) -> np.ndarray:
        """The images of shard `number`."""
        first = number * self.shard_size
        return np.arange(first, min(first + self.shard_size, len(self.images)))


@dataclass(frozen=True)
class Existing:
    """A readable shard on the disk: its columns."""

    name: str
    paths: np.ndarray
    keys: np.ndarray
    digests: np.ndarray
    status: np.ndarray

    @property
    def momentary(self) -> np.ndarray:
        """(N,) bool: rows that are to be tried again."""
        return np.isin(self.status, MOMENTARY)

    def holds(self, source: Source, rows: np.ndarray) -> bool:
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
    """

    number: int
    rows: np.ndarray
    compute: np.ndarray
    copies: list[tuple[str, np.ndarray, np.ndarray]] = field(default_factory=list)


def existing_shards(
    folder: Path, identity: str, current: Iterable[str] = (), damaged: Iterable[str] = ()
) -> list[Existing]:
    """Every readable shard of the identity (its hash) in the folder, finished or in progress: those
    of the `current` cache first, then the latest."""
    shards = []
    for file in sorted(folder.glob("shard-*.h5"), key=_written, reverse=True):
        if not NAME.fullmatch(file.name) or file.name in damaged:
            continue
        try:
            with open_shard(file) as shard:
                if shard.attrs["identity"] == identity:
                    columns = [shard[name][...] for name in ("path", "key", "digest", "status")]
                    shards.append(Existing(file.name, *columns))
        except (CacheError, OSError):
            continue
    return sorted(shards, key=lambda shard: shard.name not in current)


def _written(file: Path) -> tuple[int, str]:
    return file.stat().st_mtime_ns, file.name


def whole_shards(existing: Iterable[Existing], source: Source) -> dict[int, Existing]:
    """By number the shards that hold just the images that they should: of several the one with the
    fewest rows that are to be tried again, then the first."""
    shards: dict[int, Existing] = {}
    for shard in existing:
        number = shard_number(shard.name)
        fewest = shards[number].momentary.sum() if number in shards else np.inf
        if shard.holds(source, source.rows(number)) and shard.momentary.sum() < fewest:
            shards[number] = shard
    return shards


class Plan:
    """What to keep, copy and compute of some shards.

    Args:
        folder: of the cache.
        existing: see existing_shards.
        numbers: of the shards.
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
        numbers: Iterable[int],
        contents: bool = False,
    ):
        self.source = source
        self.contents = contents
        self.kept: dict[int, str] = {}
        self.work: list[Work] = []
        whole = whole_shards(existing, source)
        with tqdm(desc="comparing contents", unit="img", delay=2, leave=False) as self.bar:
            for number in numbers:
                rows, shard = source.rows(number), whole.get(number)
                if shard and not shard.momentary.any() and self._all_unchanged(shard, rows):
                    self.kept[number] = shard.name
                else:
                    self.work.append(Work(number, rows, rows))
            if self.work:
                self._find_copies(folder, existing)

    @property
    def rows(self) -> int:
        """Rows of all shards that are written."""
        return sum(len(work.rows) for work in self.work)

    @property
    def computed(self) -> int:
        return sum(len(work.compute) for work in self.work)

    def _find_copies(self, folder: Path, existing: list[Existing]) -> None:
        """Move the rows that some shard has, and whose image is unchanged, from `compute` to
        `copies`."""
        wanted = np.concatenate([work.compute for work in self.work])
        origin = np.full(len(self.source.images), -1, np.int32)  # number of the shard to copy from
        place = np.zeros(len(self.source.images), np.int64)  # and the row in it
        checksums = read_checksums(folder)
        for i, shard in enumerate(existing):
            local, rows = self._known(shard, wanted[origin[wanted] < 0])
            # a flipped bit must not travel into a new shard
            if not len(rows) or problem(folder, shard.name, checksums):
                continue
            same = self._unchanged(shard, local, rows)
            origin[rows[same]] = i
            place[rows[same]] = local[same]
        for work in self.work:
            origins = origin[work.compute]
            for i in np.unique(origins[origins >= 0]).tolist():
                rows = work.compute[origins == i]
                work.copies.append((existing[i].name, place[rows], rows))
            work.compute = work.compute[origins < 0]

    def _known(self, shard: Existing, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of the run's `rows` those whose path the shard has with a lasting status: its rows, and
        the run's."""
        paths = self.source.images.paths[rows]
        local = np.minimum(np.searchsorted(shard.paths, paths), len(shard.paths) - 1)
        hit = (shard.paths[local] == paths) & ~shard.momentary[local]
        return local[hit], rows[hit]

    def _all_unchanged(self, shard: Existing, rows: np.ndarray) -> bool:
        return not self.contents or self._unchanged(shard, np.arange(len(rows)), rows).all()

    def _unchanged(self, shard: Existing, local: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(K,) bool, for rows `local` of the shard and `rows` of the run with the same paths:
        whether the image is still the one that the mask was made of."""
        same = (shard.keys[local] == self.source.keys[rows]).all(1)
        if self.contents:
            same[:] = False
        for i in np.flatnonzero(~same).tolist():
            try:
                digest = read_source(self.source.images, int(rows[i]), self.source.recipe)[1]
            except ImageError:
                continue
            same[i] = np.array_equal(digest, shard.digests[local[i]])
            self.bar.update()
        return same


def damaged_shards(folder: Path, current: Iterable[str]) -> dict[str, str]:
    """{file name: what is wrong} of all shards in a folder, finished or in progress, each read
    whole."""
    names = {file.name for file in folder.glob("shard-*.h5") if NAME.fullmatch(file.name)}
    bar = tqdm(sorted(names.union(current)), desc="checking shards", unit="shard", leave=False)
    return {name: text for name, text in problems(folder, bar) if text}
