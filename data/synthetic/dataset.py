"""The embedded data set: ten classes of objects on ten kinds of background, with true masks and no
download.

In `train` a class usually stands on its own kind of background, so background is a shortcut; the
test splits are built as the Backgrounds Challenge's (Xiao et al., ICLR 2021): the same objects on
their own kind, on a random kind, alone, and the background alone.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from data.synthetic.backdrops import BACKGROUNDS, draw_background
from data.synthetic.objects import CLASSES, draw_object

NAME = "dilo-synthetic"
VERSION = 1  # raise it whenever any picture changes, so that old folders are made anew
TEST_SPLITS = ("original", "mixed_same", "mixed_rand", "only_fg", "only_bg")
SPLITS = ("train", "probe", *TEST_SPLITS)
# Class i's own kind of background; not in the same order, so that neither list's order means
# anything.
OWN_KIND = dict(
    zip(
        CLASSES,
        (
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
        ),
        strict=True,
    )
)
_BLOCK = 100  # images a task


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
    name = list(CLASSES)[index % len(CLASSES)]
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
    name = list(CLASSES)[index % len(CLASSES)]
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


def _write_block(out: str, part: str, start: int, stop: int, scene: dict) -> int:
    cv2.setNumThreads(0)
    for index in range(start, stop):
        name = list(CLASSES)[index % len(CLASSES)]
        for split, (image, mask) in draw(part, index, **scene).items():
            _write(
                Path(out, split, name, f"{index:05d}.jpg"),
                image[..., ::-1],
                cv2.IMWRITE_JPEG_QUALITY,
                95,
            )
            _write(
                Path(out, "masks", split, name, f"{index:05d}.png"),
                mask,
                cv2.IMWRITE_PNG_COMPRESSION,
                3,
            )
    return stop - start


def _write(path: Path, image: np.ndarray, *options: int) -> None:
    if not cv2.imwrite(
        str(path), image, options
    ):  # OpenCV only returns False where the disk is full
        raise OSError(f"{path}: could not be written; is the disk full?")


def _complete(out: Path, wanted: dict) -> dict | None:
    try:
        found = json.loads((out / "dataset.json").read_text())
    except (OSError, ValueError):
        return None
    return found if all(found.get(name) == value for name, value in wanted.items()) else None


def make(
    out: str | os.PathLike,
    *,
    seed: int = 0,
    train: int = 6000,
    probe: int = 1000,
    test: int = 1000,
    size: int = 64,
    bias: float = 0.9,
    workers: int = 1,
    progress: bool = True,
) -> dict:
    """Write the data set under `out`, or return at once where it is already there with these
    parameters.

    Layout: `<split>/<class>/NNNNN.jpg` for each of SPLITS, `masks/<split>/<class>/NNNNN.png`
    (uint8, soft edge, 255 = foreground), and `dataset.json`, named so last: a folder that holds
    `dataset.json.tmp` instead was interrupted and is written again.
    The pictures depend on `seed`, `size`, `bias` and their index only, never on `workers` or the
    counts.

    Args:
        train, probe, test: images of each part (each test object is in all five test splits).
        bias: probability, 0..1, that a training or `original` image shows its class's own kind of
            background.

    Returns:
        what dataset.json holds: version, parameters, classes, own kinds of background, images of
        each split.

    Raises:
        ValueError: a parameter out of range, or `out` is a file or holds files that this function
            did not write.
        OSError: a file cannot be written.
    """
    for label, count in (("train", train), ("probe", probe), ("test", test)):
        if not 0 < count <= 100_000:
            raise ValueError(f"{label} = {count}: expected 1 to 100,000 images")
    if not 16 <= size <= 512:
        raise ValueError(f"size = {size}: expected 16 to 512 pixels")
    if not 0 <= bias <= 1:
        raise ValueError(f"bias = {bias}: expected a probability, 0 to 1")
    if seed < 0 or workers < 1:
        raise ValueError(f"seed = {seed}, workers = {workers}: expected seed >= 0 and workers >= 1")
    out = Path(out)
    counts = {"train": train, "probe": probe, **dict.fromkeys(TEST_SPLITS, test)}
    wanted = {
        "name": NAME,
        "version": VERSION,
        "seed": seed,
        "size": size,
        "bias": bias,
        "counts": counts,
        "classes": list(CLASSES),
        "own_kind": OWN_KIND,
        "kinds": list(BACKGROUNDS),
    }
    found = _complete(out, wanted)
    if found is not None:
        return found
    _clear(out)
    out.mkdir(parents=True, exist_ok=True)
    marker = out / "dataset.json.tmp"
    with open(
        marker, "w"
    ) as file:  # renamed last: until then it marks the folder as ours and unfinished
        file.write(json.dumps(wanted, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    for split in SPLITS:
        for name in CLASSES:
            (out / split / name).mkdir(parents=True, exist_ok=True)
            (out / "masks" / split / name).mkdir(parents=True, exist_ok=True)
    blocks = [
        (part, start, min(start + _BLOCK, count))
        for part, count in (("train", train), ("probe", probe), ("test", test))
        for start in range(0, count, _BLOCK)
    ]
    arguments = (
        repeat(str(out)),
        *zip(*blocks, strict=True),
        repeat({"seed": seed, "size": size, "bias": bias}),
    )
    # spawn: the caller may hold threads (torch's, a progress bar's), which a fork would copy in any
    # state.
    pool = (
        ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        if workers > 1
        else nullcontext()
    )
    with (
        pool,
        tqdm(
            total=train + probe + test, desc="synthetic scenes", unit="scene", disable=not progress
        ) as bar,
    ):
        for done in (pool.map if workers > 1 else map)(_write_block, *arguments):
            bar.update(done)
    os.replace(marker, out / "dataset.json")
    return wanted


def _clear(out: Path) -> None:
    """Remove an earlier or interrupted data set, and nothing else; ValueError where `out` is not
    one, nor empty."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"{out}: is a file, not a folder")
    here = {entry.name for entry in out.iterdir()}
    marks = here & {"dataset.json", "dataset.json.tmp"}
    if "dataset.json" in marks and not _complete(out, {"name": NAME}):
        marks = set()  # another program's file of that name
    strangers = sorted(here - marks - ({*SPLITS, "masks"} if marks else set()))
    if strangers:
        raise ValueError(
            f"{out}: holds other files ({', '.join(strangers[:5])}); give an empty or new folder"
        )
    if "dataset.json" in marks:
        os.replace(
            out / "dataset.json", out / "dataset.json.tmp"
        )  # a kill while removing leaves it unfinished
    for folder, ending in ((out, "jpg"), (out / "masks", "png")):
        for split in SPLITS:
            for file in (folder / split).glob(f"*/[0-9][0-9][0-9][0-9][0-9].{ending}"):
                file.unlink()
