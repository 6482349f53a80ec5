"""The embedded data set: ten classes of objects on ten kinds of background, with true masks.

In `train` a class usually stands on its own kind of background, so background is a shortcut; the
test splits are built as the Backgrounds Challenge's (Xiao et al., ICLR 2021): the same objects on
their own kind, on a random kind, alone, and the background alone.
"""

import os
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import TypedDict

import cv2
import numpy as np
from numpy.random import Generator

from data.cli import UsageError
from data.synthetic.backdrops import BACKGROUNDS, draw_background
from data.synthetic.objects import CLASSES, draw_object
from data.synthetic.output import Output, write_file, write_jpeg

NAME = "dilo-synthetic"
VERSION = 1  # raise it whenever any picture changes, so that old folders are rewritten
PARTS = ("train", "probe", "test")
TEST_SPLITS = ("original", "mixed_same", "mixed_rand", "only_fg", "only_bg")
SPLITS = ("train", "probe", *TEST_SPLITS)
# of a scene's random streams the one of each split's background: only_bg shows mixed_same's
STREAMS = {"train": 2, "probe": 2, "original": 2, "mixed_same": 3, "mixed_rand": 4, "only_bg": 3}
# class i's own kind of background, in no order
KINDS = [
    "cobbles",
    "planks",
    "stars",
    "brick",
    "clouds",
    "gravel",
    "tissue",
    "print",
    "ripples",
    "grass",
]
OWN_KIND = dict(zip(CLASSES, KINDS, strict=True))
NUMBER = "[0-9]" * 5
FOLDERS = [f"{split}/{name}" for split, name in product(SPLITS, CLASSES)]
PICTURES = [f"{folder}/{NUMBER}.jpg" for folder in FOLDERS]
MASKS = [f"masks/{folder}/{NUMBER}.png" for folder in FOLDERS]


def _rng(seed: int, *key: int) -> Generator:
    return np.random.default_rng([seed, *key])


def _kind(name: str, bias: float, rng: Generator) -> str:
    """The class's own kind with probability `bias`, else one of the other nine."""
    if rng.uniform() < bias:
        return OWN_KIND[name]
    return str(rng.choice([kind for kind in BACKGROUNDS if kind != OWN_KIND[name]]))


def background_kinds(
    part: str, index: int, *, seed: int = 0, bias: float = 0.9
) -> dict[str, str | None]:
    """The kind of background that scene `index` of a part shows in each split; None where it shows
    none (only_fg)."""
    name = CLASSES[index % len(CLASSES)]
    rng = _rng(seed, PARTS.index(part), index, 1)
    uniform = 1 / len(BACKGROUNDS)
    if part != "test":
        return {part: _kind(name, bias if part == "train" else uniform, rng)}
    own = OWN_KIND[name]
    return {
        "original": _kind(name, bias, rng),
        "mixed_same": own,
        "mixed_rand": _kind(name, uniform, rng),
        "only_fg": None,
        "only_bg": own,
    }


def draw(
    part: str, index: int, *, seed: int = 0, size: int = 64, bias: float = 0.9
) -> dict[str, tuple]:
    """Scene `index` of "train", "probe" or "test": a pure function of its arguments.

    Returns:
        split -> (image (size, size, 3) uint8 RGB, mask (size, size) uint8, 255 = foreground): one
        entry for "train" and "probe", and for "test" one for each of TEST_SPLITS, all of the same
        object. only_bg's mask is all zero.
    """
    name = CLASSES[index % len(CLASSES)]
    key = (PARTS.index(part), index)
    colours, alpha = draw_object(name, _rng(seed, *key, 0), size)
    mean = (colours * alpha[..., None]).sum((0, 1)) / max(float(alpha.sum()), 1.0)
    whole = np.rint(alpha * 255).astype(np.uint8)
    scene = {}
    for split, kind in background_kinds(part, index, seed=seed, bias=bias).items():
        background = 0.0
        if kind is not None:
            background = draw_background(kind, _rng(seed, *key, STREAMS[split]), size, mean)
        mask = np.zeros_like(whole) if split == "only_bg" else whole
        # Pasting with the mask as it is stored makes the splits compose exactly: only_fg over
        # only_bg is mixed_same.
        soft = mask[..., None].astype(np.float32) / 255
        image = np.rint(soft * colours + (1 - soft) * background).astype(np.uint8)
        scene[split] = (image, mask)
    return scene


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """What the data set holds."""

    seed: int = 0
    """Seed; the same seed gives the same files."""
    train: int = 6000
    """Training images."""
    probe: int = 1000
    """Unbiased images to train probes on."""
    test: int = 1000
    """Test objects; each is in every test split."""
    size: int = 64
    """Side of the images, in pixels."""
    bias: float = 0.9
    """Probability that a training image shows its class's own kind of background, 0..1."""

    def check(self) -> None:
        """UsageError where a number is out of its range."""
        limits = {"seed": (0, 1 << 62), "size": (16, 512), "bias": (0, 1)}
        limits |= dict.fromkeys(PARTS, (1, 100_000))
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"--{name} {value}: expected {low} to {high:,}")


class Record(TypedDict):
    """What dataset.json holds: `counts` are images by split, `own_kind` the background of each
    class."""

    name: str
    version: int
    seed: int
    size: int
    bias: float
    counts: dict[str, int]
    classes: list[str]
    own_kind: dict[str, str]
    kinds: list[str]


def make(
    out: str | os.PathLike,
    scenes: Scenes = Scenes(),
    *,
    workers: int = 1,
) -> Record:
    """Write the data set under `out`, or what is missing of it.

    Layout: `<split>/<class>/NNNNN.jpg` for each of SPLITS, `masks/<split>/<class>/NNNNN.png`
    (uint8, soft edge, 255 = foreground), and `dataset.json`, named so last: a folder that holds
    `dataset.json.tmp` instead was interrupted and is written again. The pictures depend on seed,
    size, bias and their index only, never on the workers or the counts.

    Raises:
        UsageError: a number out of its range, or `out` is a file, or holds files and no such data
            set. Of a data set with other parameters the pictures are replaced; files of other names
            stay.
        OSError: a file cannot be written.
    """
    scenes.check()
    if workers < 1:
        raise UsageError(f"--workers {workers}: needs at least 1")
    parts = {"train": scenes.train, "probe": scenes.probe, "test": scenes.test}
    record: Record = {
        "name": NAME,
        "version": VERSION,
        "seed": scenes.seed,
        "size": scenes.size,
        "bias": scenes.bias,
        "counts": {split: parts.get(split, scenes.test) for split in SPLITS},
        "classes": list(CLASSES),
        "own_kind": OWN_KIND,
        "kinds": list(BACKGROUNDS),
    }
    output = Output(out, "dataset.json", record)
    jobs = [(part, index) for part, count in parts.items() for index in range(count)]
    own = PICTURES + MASKS
    if output.finished:
        jobs, own = [job for job in jobs if not _is_there(output.folder, *job)], []
    if jobs:
        output.write(partial(_write_block, output.folder, scenes), jobs, workers, own)
    return record


def _files(out: Path, split: str, index: int) -> tuple[Path, Path]:
    """A picture, and its mask."""
    place = Path(split, CLASSES[index % len(CLASSES)], f"{index:05d}")
    return out / place.with_suffix(".jpg"), out / "masks" / place.with_suffix(".png")


def _is_there(out: Path, part: str, index: int) -> bool:
    splits = TEST_SPLITS if part == "test" else (part,)
    return all(file.exists() for split in splits for file in _files(out, split, index))


def _write_block(out: Path, scenes: Scenes, jobs: list[tuple[str, int]]) -> int:
    for part, index in jobs:
        views = draw(part, index, seed=scenes.seed, size=scenes.size, bias=scenes.bias)
        for split, (image, mask) in views.items():
            picture, mask_file = _files(out, split, index)
            write_jpeg(picture, image)
            png = cv2.imencode(".png", mask, (cv2.IMWRITE_PNG_COMPRESSION, 3))[1]
            write_file(mask_file, png.tobytes())
    return len(jobs)
