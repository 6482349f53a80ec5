"""The embedded data set: ten classes of objects on ten kinds of background, with true masks.

In `train` a class usually stands on its own kind of background, so background is a shortcut; the
test splits are built as the Backgrounds Challenge's (Xiao et al., ICLR 2021): the same objects on
their own kind, on a random kind, alone, and the background alone.
"""

from __future__ import annotations

import itertools
import json
import os
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict

import cv2
import numpy as np
from tqdm import tqdm

from data.cli import UsageError
from data.io import write_bytes, write_text
from data.parallel import bounded_map
from data.synthetic.backdrops import BACKGROUNDS, draw_background
from data.synthetic.objects import CLASSES, draw_object

NAME = "dilo-synthetic"
VERSION = 1  # raise it whenever any picture changes, so that old folders are rewritten
TEST_SPLITS = ("original", "mixed_same", "mixed_rand", "only_fg", "only_bg")
SPLITS = ("train", "probe", *TEST_SPLITS)
# Class i's own kind of background; not in the same order, so that neither list's order means
# anything.
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
BLOCK = 100  # images a task
FINISHED, UNFINISHED = "dataset.json", "dataset.json.tmp"
NUMBER = "[0-9]" * 5


def _rng(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng([seed, *key])


def _kind(name: str, bias: float, rng: np.random.Generator) -> str:
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
    rng = _rng(seed, ("train", "probe", "test").index(part), index, 1)
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
    key = (("train", "probe", "test").index(part), index)
    colours, alpha = draw_object(name, _rng(seed, *key, 0), size)
    mean = (colours * alpha[..., None]).sum((0, 1)) / max(float(alpha.sum()), 1.0)
    kinds = background_kinds(part, index, seed=seed, bias=bias)

    def background(kind: str, stream: int) -> np.ndarray:
        return draw_background(kind, _rng(seed, *key, stream), size, mean)

    mask = np.rint(alpha * 255).astype(np.uint8)
    # Pasting with the mask as it is stored makes the splits compose exactly: only_fg over only_bg
    # is mixed_same.
    soft = mask[..., None].astype(np.float32) / 255

    def paste(back: np.ndarray | float) -> np.ndarray:
        return np.rint(soft * colours + (1 - soft) * back).astype(np.uint8)

    if part != "test":
        return {part: (paste(background(kinds[part], 2)), mask)}
    same = background(kinds["mixed_same"], 3)
    return {
        "original": (paste(background(kinds["original"], 2)), mask),
        "mixed_same": (paste(same), mask),
        "mixed_rand": (paste(background(kinds["mixed_rand"], 4)), mask),
        "only_fg": (paste(0.0), mask),
        "only_bg": (np.rint(same).astype(np.uint8), np.zeros_like(mask)),
    }


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

    def __post_init__(self):
        for name, low, high in (
            ("seed", 0, 1 << 62),
            ("train", 1, 100_000),
            ("probe", 1, 100_000),
            ("test", 1, 100_000),
            ("size", 16, 512),
            ("bias", 0, 1),
        ):
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
    scenes: Scenes | None = None,
    *,
    workers: int = 1,
    progress: bool = True,
) -> Record:
    """Write the data set under `out`, or return at once where it is already there.

    Layout: `<split>/<class>/NNNNN.jpg` for each of SPLITS, `masks/<split>/<class>/NNNNN.png`
    (uint8, soft edge, 255 = foreground), and `dataset.json`, named so last: a folder that holds
    `dataset.json.tmp` instead was interrupted and is written again. The pictures depend on seed,
    size, bias and their index only, never on the workers or the counts.

    Raises:
        UsageError: `out` is a file or holds files that this function did not write.
        OSError: a file cannot be written.
    """
    if workers < 1:
        raise UsageError(f"--workers {workers}: needs at least 1")
    scenes = scenes or Scenes()
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
    out = Path(out)
    if _read_record(out) == record:
        return record
    _clear(out)
    write_text(out / UNFINISHED, json.dumps(record, indent=1) + "\n")
    for split, name in itertools.product(SPLITS, CLASSES):
        (out / split / name).mkdir(parents=True, exist_ok=True)
        (out / "masks" / split / name).mkdir(parents=True, exist_ok=True)
    blocks = [
        (part, range(start, min(start + BLOCK, count)))
        for part, count in parts.items()
        for start in range(0, count, BLOCK)
    ]
    written = bounded_map(partial(_write_block, out, scenes), blocks, workers if workers > 1 else 0)
    total = sum(parts.values())
    bar = tqdm(total=total, desc="synthetic scenes", unit="scene", disable=not progress)
    with closing(written), bar:
        for count in written:
            bar.update(count)
    os.replace(out / UNFINISHED, out / FINISHED)
    return record


def _write_block(out: Path, scenes: Scenes, block: tuple[str, range]) -> int:
    part, indices = block
    for index in indices:
        views = draw(part, index, seed=scenes.seed, size=scenes.size, bias=scenes.bias)
        for split, (image, mask) in views.items():
            place = Path(split, CLASSES[index % len(CLASSES)], f"{index:05d}")
            jpeg = cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 95))[1]
            png = cv2.imencode(".png", mask, (cv2.IMWRITE_PNG_COMPRESSION, 3))[1]
            write_bytes(out / place.with_suffix(".jpg"), jpeg.tobytes(), durable=False)
            write_bytes(out / "masks" / place.with_suffix(".png"), png.tobytes(), durable=False)
    return len(indices)


def _read_record(out: Path) -> dict:
    """dataset.json, or an empty dict where there is none of this data set."""
    try:
        record = json.loads((out / FINISHED).read_bytes())
        return record if record["name"] == NAME else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _clear(out: Path) -> None:
    """Remove an earlier or interrupted data set, and nothing else; UsageError where `out` is not
    one, nor empty. An empty folder is there then."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file, not a folder")
    out.mkdir(parents=True, exist_ok=True)
    entries = {entry.name for entry in out.iterdir()}
    marks = entries & {UNFINISHED, *([FINISHED] if _read_record(out) else [])}
    strange = sorted(entries - marks - ({*SPLITS, "masks"} if marks else set()))
    if strange:
        raise UsageError(
            f"{out}: holds other files ({', '.join(strange[:5])}); give an empty or new folder"
        )
    if FINISHED in marks:  # a kill while removing leaves it unfinished
        os.replace(out / FINISHED, out / UNFINISHED)
    for split in SPLITS:
        for pattern in (f"{split}/*/{NUMBER}.jpg*", f"masks/{split}/*/{NUMBER}.png*"):
            for file in out.glob(pattern):
                file.unlink()
