"""What a run has to do: which shards stay, which rows are copied, which images are computed.

Shards are looked at one by one, and a row is known again by its path and by its source's byte
length and mtime; where those differ or are not known, by the digest of the file's contents.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.cache import shard as shards
from data.cache.index import PROGRESS, UNKNOWN, read_index, shard_files
from data.sources.images import ImageError, Images
from preprocess.recipe import digest

NAME = re.compile(r"shard-(\d{5,})(?:-(\d+))?\.h5")


@dataclass
class Existing:
    """A shard that is on the disk: its file name, paths, and sources as they were when its masks
    were made."""

    name: str
    paths: np.ndarray
    sources: np.ndarray


@dataclass
class Work:
    """One shard to write.

    Attributes:
        number, name: of the shard.
        rows: its part of the run's images.
        compute: (K,) rows of the run to compute.
        copies: (file name, rows in it, rows of the run) to copy.
    """

    number: int
    name: str
    rows: slice
    compute: np.ndarray
    copies: list[tuple[str, np.ndarray, np.ndarray]] = field(default_factory=list)


@dataclass
class Plan:
    """The files of the finished cache in order, those to be written, and the generation that they
    make."""

    files: list[str]
    work: list[Work]
    generation: int

    @property
    def computed(self) -> int:
        return sum(len(w.compute) for w in self.work)


def file_number(name: str) -> tuple[int, int]:
    """(shard number, generation) of a shard's file name."""
    number, generation = NAME.fullmatch(name).groups()
    return int(number), int(generation or 1)


def existing_shards(
    folder: Path, description: dict | None, identity_hash: str, damaged: set[str]
) -> list[Existing]:
    """Every readable shard of this identity in the folder, finished or in progress; newest
    generation first."""
    noted = {}
    index = read_index(folder, description) if description and description["complete"] else None
    if index is not None:
        for number, name in enumerate(shard_files(description)):
            noted[name] = index["sources"][
                number * description["shard_size"] : (number + 1) * description["shard_size"]
            ]
    names = sorted(
        (
            f.name
            for f in folder.glob("shard-*.h5")
            if NAME.fullmatch(f.name) and f.name not in damaged
        ),
        key=lambda name: (-file_number(name)[1], file_number(name)[0]),
    )
    found = []
    for name in names:
        try:
            with shards.open_shard(folder / name) as file:
                if file.attrs["identity"] != identity_hash:
                    continue
                paths = file["path"][...]
        except (shards.CacheError, OSError, KeyError, RuntimeError, ValueError):
            continue
        try:
            sources = np.load(folder / PROGRESS / f"{name}.npy")
        except (OSError, ValueError):
            sources = noted.get(name)
        if sources is None or sources.shape != (len(paths), 2):
            sources = np.full((len(paths), 2), UNKNOWN, "<i8")
        found.append(Existing(name, paths, sources))
    return found


class Unchanged:
    """Tells rows whose image is still the one that its mask was made of; reads contents only where
    it must."""

    def __init__(self, folder: Path, images: Images, sources: np.ndarray, contents: bool):
        self.folder, self.images, self.sources, self.contents = folder, images, sources, contents
        self.bar = tqdm(desc="comparing contents", unit="img", delay=2, leave=False)

    def __call__(self, shard: Existing, local: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(K,) bool, for rows `local` of the shard and `rows` of the run, which have the same
        paths."""
        same = np.full(len(rows), not self.contents) & (
            shard.sources[local] == self.sources[rows]
        ).all(1)
        doubtful = np.flatnonzero(~same)
        if len(doubtful):
            try:
                digests = shards.read_column(self.folder / shard.name, "digest")
            except (shards.CacheError, OSError, KeyError, RuntimeError):
                return same
            for i in doubtful.tolist():
                same[i] = np.array_equal(self._digest(int(rows[i])), digests[local[i]])
                self.bar.update()
        return same

    def _digest(self, row: int) -> np.ndarray:
        try:
            return digest(self.images.read(row))
        except ImageError:
            return np.zeros(
                16, np.uint8
            )  # what a mask's row holds where the file could not be read


def make_plan(
    folder: Path,
    images: Images,
    sources: np.ndarray,
    shard_size: int,
    description: dict | None,
    found: list[Existing],
    generation: int,
    unchanged: Unchanged,
) -> Plan:
    """Decide what to keep, copy and compute.

    Args:
        sources: (N, 2) int64, see Images.stat.
        description: cache.json of the folder, or None.
        found: see existing_shards.
        generation: number of the generation in progress, or that a new one would get.
    """
    complete = bool(description and description["complete"])
    current = shard_files(description) if complete else []
    by_number: dict[int, list[Existing]] = {}
    for shard in found:
        by_number.setdefault(file_number(shard.name)[0], []).append(shard)
    files, work = [], []
    for number in range(-(-len(images) // shard_size)):
        rows = slice(number * shard_size, min((number + 1) * shard_size, len(images)))
        expected = np.arange(rows.start, rows.stop)
        # the finished cache's own file first: a shard of a later generation is a kept one's worse
        # twin
        candidates = sorted(by_number.get(number, []), key=lambda s: s.name not in current)
        kept = next(
            (
                s.name
                for s in candidates
                if np.array_equal(s.paths, images.paths[rows])
                and unchanged(s, np.arange(len(expected)), expected).all()
            ),
            None,
        )
        if kept is None:
            kept = shards.shard_name(number, generation)
            if (
                complete
                and number < len(current)
                and _as_before(
                    folder, description, number, images, sources, rows, {s.name for s in found}
                )
            ):
                kept = current[
                    number
                ]  # lost or damaged, and its images are the same: it gets its own bytes again
            work.append(Work(number, kept, rows, expected))
        files.append(kept)
    _find_copies(folder, images, work, found, unchanged)
    unchanged.bar.close()
    if complete and files == current and len(images) == description["images"]:
        generation = description.get("generation", 1)
    return Plan(files, work, generation)


def _as_before(
    folder: Path,
    description: dict,
    number: int,
    images: Images,
    sources: np.ndarray,
    rows: slice,
    readable: set[str],
) -> bool:
    """True where a finished cache's shard is lost and the index says that its images are still the
    same."""
    if shard_files(description)[number] in readable or len(images) != description["images"]:
        return False
    index = read_index(folder, description)
    return index is None or (
        np.array_equal(index["path"][rows], images.paths[rows])
        and np.array_equal(index["sources"][rows], sources[rows])
    )


def _find_copies(
    folder: Path, images: Images, work: list[Work], found: list[Existing], unchanged: Unchanged
) -> None:
    """Move the rows that exist in some shard, and whose image is unchanged, from `compute` to
    `copies`."""
    if not work or not found:
        return
    wanted = np.concatenate([w.compute for w in work])
    origin = np.full(
        len(images), -1, np.int32
    )  # which of `found` a row is copied from, and which row of it
    place = np.zeros(len(images), np.int64)
    checksums = recorded_checksums(folder)
    written = {w.name: w.rows for w in work}
    for i, shard in enumerate(found):  # newest first: what an earlier one gave stays
        open_rows = wanted[origin[wanted] < 0]
        if not len(open_rows) or not len(shard.paths):
            continue
        local = np.minimum(
            np.searchsorted(shard.paths, images.paths[open_rows]), len(shard.paths) - 1
        )
        hit = shard.paths[local] == images.paths[open_rows]
        if (
            shard.name in written
        ):  # it is about to be replaced: only its own successor reads it before
            own = written[shard.name]
            hit &= (own.start <= open_rows) & (open_rows < own.stop)
        local, rows = local[hit], open_rows[hit]
        if not len(rows) or shards.problem(folder, shard.name, checksums):
            continue  # a flipped bit must not travel into a new shard
        same = unchanged(shard, local, rows)
        origin[rows[same]], place[rows[same]] = i, local[same]
    for w in work:
        origins = origin[w.compute]
        for i in np.unique(origins[origins >= 0]).tolist():
            rows = w.compute[origins == i]
            w.copies.append((found[i].name, place[rows], rows))
        w.compute = w.compute[origins < 0]


def damaged_shards(folder: Path, description: dict | None) -> dict[str, str]:
    """{file name: what is wrong} of all shards in a folder, finished or in progress, each read
    whole."""
    checksums = recorded_checksums(folder)
    names = set(shard_files(description)) if description and description["complete"] else set()
    names |= {f.name for f in folder.glob("shard-*.h5")}
    wrong = {}
    for name in tqdm(sorted(names), desc="checking shards", unit="shard", leave=False):
        found = shards.problem(folder, name, checksums)
        if found:
            wrong[name] = found
    return wrong


def recorded_checksums(folder: Path) -> dict[str, str]:
    """{shard file name: SHA-256 hex}, of finished shards and of those in progress."""
    return shards.read_checksums(folder) | shards.read_receipts(folder / PROGRESS)


def list_hash(paths: np.ndarray) -> str:
    """What tells one list of images from another; (N,) bytes."""
    return shards.blake(np.ascontiguousarray(paths).tobytes() + str(paths.dtype).encode())


def free_generation(folder: Path, description: dict | None) -> int:
    """The number of the next generation: 1 in a folder without shards."""
    used = [file_number(f.name)[1] for f in folder.glob("shard-*.h5") if NAME.fullmatch(f.name)]
    if description and description["complete"]:
        used.append(description.get("generation", 1))
    return max(used, default=0) + 1
