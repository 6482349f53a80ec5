"""What the network trains on, in files of a thousand images: pictures, cues, labels, and each label's trust.

A file appears whole or not at all and is a pure function of its images, so an interrupted run makes only what is
missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

from data.cache import Cache
from data.cli import UsageError
from data.files import replace, temporary_name, write_text
from data.images import ImageError, decode, read_bytes
from preprocess.selftaught import cut
from preprocess.selftaught.cues import squashed

PART = 1024  # images a file
COVERAGE = (0.01, 0.95)  # of the image: labels that cover less or more say nothing


class Column:
    """One array over all parts; rows are read from the parts' memory maps when they are asked for."""

    def __init__(self, files: list[Path]):
        self.parts = [np.load(f, mmap_mode="r", allow_pickle=False) for f in files]

    def __len__(self) -> int:
        return sum(len(p) for p in self.parts)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return np.stack([self.parts[r // PART][r % PART] for r in np.asarray(rows).tolist()])


@dataclass
class Samples:
    """Images by row, from memory maps.

    Attributes:
        image: (N, S, S, 3) uint8 RGB.  cues: (N, 4, S, S) uint8.  label: (N, S, S) uint8, the history of what
            the image's mask was held to be, 255 = surely foreground.  trust: (N,) float32 in 0..1, of the label.
    """

    image: Column
    cues: Column
    label: Column
    trust: Column

    def __len__(self) -> int:
        return len(self.trust)

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Image, cues, label and trust of (n,) rows."""
        return self.image[rows], self.cues[rows], self.label[rows], self.trust[rows]


def rows_of(sources: list[tuple[str, list[Cache]]], limit: int | None = None) -> list[tuple[int, int]]:
    """(source, cache row) of every image whose maps are all usable; at most `limit` of each source, spread evenly."""
    found = []
    for number, (_, caches) in enumerate(sources):
        usable = np.flatnonzero(np.all([cache.status == 0 for cache in caches], 0))
        if limit is not None and limit < len(usable):
            usable = usable[np.arange(limit) * len(usable) // limit]
        found += [(number, row) for row in usable.tolist()]
    return found


def first(sources: list[tuple[str, list[Cache]]], folder: Path, side: int, workers: int,
          rows: list[tuple[int, int]], listed: str) -> Samples:
    """Pictures, cues and the first labels of `rows`, made where they are missing.

    Args:
        listed: digest of the images, kept beside the files.

    Raises:
        UsageError: the files there are those of other images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "images.txt"
    if not note.exists():
        write_text(note, f"{len(rows)} images, digest {listed}\n")
    if note.read_text() != f"{len(rows)} images, digest {listed}\n":
        raise UsageError(f"{note}: the images changed since this run began; restore them, or choose another OUT")
    _make(folder, "first", rows, lambda chunk: _first(sources, chunk, side), workers)
    return Samples(*(_join(folder, "first", name, len(rows)) for name in ("image", "cues", "label", "trust")))


def _first(sources, rows, side: int) -> dict[str, np.ndarray]:
    cv2.setNumThreads(0)
    made = {"image": np.zeros((len(rows), side, side, 3), np.uint8),
            "cues": np.zeros((len(rows), 4, side, side), np.uint8),
            "label": np.zeros((len(rows), side, side), np.uint8), "trust": np.zeros(len(rows), np.float32)}
    for i, (source, row) in enumerate(rows):
        folder, caches = sources[source]
        try:
            image = decode(read_bytes(folder, caches[0].paths[row]))
        except ImageError:
            continue  # changed since its maps were made: trust 0
        image = squashed(image, side)
        cues = np.stack([cache.mask(row) for cache in caches])
        label, agreed = cut.first_label(image, cues)
        made["image"][i], made["cues"][i], made["label"][i] = image, cues, label
        made["trust"][i] = trust(agreed, label)
    return made


def trust(agreement: float, label: np.ndarray) -> float:
    """How far an image's (S, S) label is trusted, in 0..1: the agreement, 0 where it covers nothing or everything."""
    coverage = float((label >= 128).mean())
    return agreement if COVERAGE[0] <= coverage <= COVERAGE[1] else 0.0


def later(folder: Path, name: str, samples: Samples, update: Callable[[np.ndarray], dict[str, np.ndarray]]) -> Samples:
    """The samples with the label and trust that `update` gives for (n,) rows, made where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    chunks = [np.arange(i, min(i + PART, len(samples))) for i in range(0, len(samples), PART)]
    for number, rows in enumerate(tqdm(chunks, desc=f"labels, {name}", unit="x1024 images", leave=False)):
        if not _file(folder, name, "trust", number).exists():
            _write(folder, name, number, update(rows))
    return Samples(samples.image, samples.cues, _join(folder, name, "label", len(samples)),
                   _join(folder, name, "trust", len(samples)))


def _make(folder: Path, name: str, rows: list, compute: Callable, workers: int) -> None:
    block = 64
    chunks = {i // PART: rows[i:i + PART] for i in range(0, len(rows), PART)}
    missing = [n for n in chunks if not _file(folder, name, "trust", n).exists()]
    blocks = [chunks[n][i:i + block] for n in missing for i in range(0, len(chunks[n]), block)]
    with parallel_config(backend="loky", inner_max_num_threads=1):
        results = iter(tqdm(Parallel(max(1, workers), return_as="generator")(delayed(compute)(b) for b in blocks),
                            total=len(blocks), desc=f"labels, {name}", unit="x64 images", leave=False))
        for number in missing:
            made = [next(results) for _ in range(-(-len(chunks[number]) // block))]
            _write(folder, name, number, {key: np.concatenate([m[key] for m in made]) for key in made[0]})
        for _ in results:
            raise AssertionError("more blocks than parts")


def _file(folder: Path, name: str, column: str, number: int) -> Path:
    return folder / f"{name}-{column}-{number:05d}.npy"


def _write(folder: Path, name: str, number: int, columns: dict[str, np.ndarray]) -> None:
    for column in sorted(columns, key=lambda c: c == "trust"):  # trust last: where it is, all are
        path = _file(folder, name, column, number)
        temporary = temporary_name(path)
        with open(temporary, "wb") as file:
            np.save(file, columns[column])
        replace(temporary, path)


def _join(folder: Path, name: str, column: str, count: int) -> Column:
    return Column([_file(folder, name, column, n) for n in range(-(-count // PART))])
