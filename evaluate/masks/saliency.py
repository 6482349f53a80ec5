"""Score saliency estimators, or maps on disk, against true masks.

    python -m evaluate saliency --images ecssd/images --truth ecssd/masks --estimator rbd,mr --json
    runs/saliency.json
    python -m evaluate saliency --images ecssd/images --truth ecssd/masks --maps my_maps --json
    runs/mine.json

Maximum F in both of the field's conventions: maxF(a) is the maximum of the mean per-image F,
maxF(b) is F of the mean precision and recall; on the same maps (b) is .03 to .07 higher. β² = 0.3;
weighted F has β = 1. IoU is that of the mask above half of the map's range, adaptive IoU that above
twice its mean. The JSON holds the curves too; on all of ECSSD the scores that others published
stand beside ours.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro
from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

from data.cli import UsageError
from data.io import write_text
from data.resize import resize
from data.sources.images import ImageError, decode, list_images, read_bytes
from evaluate.masks.metrics import Scores, curves, nearest_foreground, score, summarise
from evaluate.published import saliency_check
from preprocess import estimators

COLUMNS = {
    "mae": "MAE",
    "max_f_a": "maxF(a)",
    "max_f_b": "maxF(b)",
    "mean_f": "mean F",
    "adaptive_f": "adaptive F",
    "weighted_f": "weighted F",
    "s": "S",
    "mean_e": "mean E",
    "iou": "IoU",
    "adaptive_iou": "adaptive IoU",
    "ms": "ms/image",
}
FOREGROUND = 128  # of a true mask's grey levels: this and above is foreground


@dataclass(frozen=True)
class Arguments:
    """Score saliency estimators, or maps on disk, against true masks."""

    images: str
    """Folder of images."""
    truth: str
    """Folder of true masks: grey PNG at each image's relative path, foreground >= 128."""
    json: str = "runs/saliency.json"
    """File for the numbers; the figures lie beside it: examples as .png, curves as -curves.png."""
    estimator: str = ""
    """Estimators to score, separated by commas."""
    maps: str | None = None
    """Score the grey PNG maps of this folder instead (at each image's relative path)."""
    refine: str = "none"
    """Refinement after every estimator: none, guided or grabcut."""
    half: str = "all"
    """all, or the images whose number is even or odd (ECSSD: even ones choose, odd ones report)."""
    limit: int | None = None
    """Score at most this many images, spread evenly over the folder."""
    workers: int = 1
    """Processes; more than one blurs the milliseconds."""
    examples: int = 6
    """Rows of the figure of examples; 0 draws no figure."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args = tyro.cli(Arguments, args=argv, prog="python -m evaluate saliency", description=__doc__)
    names = [name for name in args.estimator.split(",") if name]
    result = run(
        args.images, args.truth, names, args.maps, args.refine, args.half, args.limit, args.workers
    )
    path = Path(args.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result, indent=2) + "\n")
    print(table(result))
    for row in result["published"]:
        print(
            f"{row['estimator']}: {COLUMNS[row['metric']]} {row['ours']:.3f}, published {row['published']:.3f} "
            f"({row['source']}){'' if row['agrees'] else ', which does not agree'}"
        )
    figures = []
    if args.examples:
        from evaluate.masks.figure import (  # matplotlib only where a figure is wanted
            draw,
            draw_curves,
        )

        figures = [path.with_suffix(".png"), path.with_name(f"{path.stem}-curves.png")]
        draw(result, figures[0], args.examples)
        draw_curves(result, figures[1])
    print("written: " + ", ".join(map(str, [path, *figures])))
    return 0


def run(
    images: str,
    truth: str,
    names: Sequence[str] = (),
    maps: str | None = None,
    refine: str = "none",
    half: str = "all",
    limit: int | None = None,
    workers: int = 1,
) -> dict:
    """Score `names`, or the maps in `maps`, on every image of `images` that `truth` has a mask of.

    Returns:
        {"images", "truth", "maps", "refine", "half", "count", "paths", "published", "estimators":
        {name: {metrics, "curves", "ms", "version", "parameters"}}}; metrics as
        evaluate.masks.metrics.summarise, curves as evaluate.masks.metrics.curves, "ms" the median
        CPU milliseconds from decoded RGB to the map at its working size (absent for maps on disk),
        "published" as evaluate.published.saliency_check.

    Raises:
        UsageError: a folder, estimator, image, mask or map that does not fit.
    """
    if bool(names) == bool(maps):
        raise UsageError("give either --estimator NAME[,NAME...] or --maps FOLDER")
    paths = _chosen(images, truth, half, limit)
    loaded = {}
    for name in names:
        try:
            estimator = estimators.load(name, refine=refine)
        except ValueError as error:
            raise UsageError(str(error)) from error
        loaded[name] = {"version": estimator.version, "parameters": estimator.parameters}
        if estimator.weights is not None:
            loaded[name]["weights"] = estimator.weights
    if maps is not None:
        loaded = {maps: {}}
    blocks = [paths[i : i + 16] for i in range(0, len(paths), 16)]
    jobs = (
        delayed(_score_block)(images, truth, block, list(names), maps, refine) for block in blocks
    )
    with parallel_config(backend="loky", inner_max_num_threads=1):
        rows = list(
            tqdm(
                Parallel(workers, return_as="generator")(jobs),
                total=len(blocks),
                unit="x16 images",
                desc="saliency",
                leave=False,
            )
        )
    rows = [row for block in rows for row in block]
    for index, entry in enumerate(loaded.values()):
        found = [row[index][0] for row in rows]
        entry.update(summarise(found), curves=curves(found))
        if maps is None:
            entry["ms"] = float(np.median([row[index][1] for row in rows]))
    result = {
        "images": os.fspath(images),
        "truth": os.fspath(truth),
        "maps": maps,
        "refine": refine,
        "half": half,
        "count": len(paths),
        "paths": [os.fsdecode(p) for p in paths],
        "estimators": loaded,
    }
    return {**result, "published": saliency_check(result)}


def table(result: dict) -> str:
    """The result as a Markdown table, one estimator a row."""
    columns = [c for c in COLUMNS if all(c in entry for entry in result["estimators"].values())]
    lines = [
        "| estimator | " + " | ".join(COLUMNS[c] for c in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, entry in result["estimators"].items():
        cells = [
            f"{entry[c]:.1f}"
            if c == "ms"
            else f"{entry[c]:.4f}"[1:]
            if c == "mae"
            else f"{entry[c]:.3f}"
            for c in columns
        ]
        lines.append(
            f"| {name} | "
            + " | ".join(c.replace("0.", ".", 1) if c.startswith("0.") else c for c in cells)
            + " |"
        )
    return "\n".join(lines)


def predict(image: np.ndarray, name: str, refine: str) -> tuple[np.ndarray, float]:
    """An estimator's map of an (H, W, 3) image as (H, W) uint8, and the CPU milliseconds it took
    before resizing."""
    estimator = estimators.load(name, refine=refine)
    start = time.process_time()
    saliency = estimator.working(image)
    milliseconds = 1e3 * (time.process_time() - start)
    saliency = resize(saliency, image.shape[1], image.shape[0])
    return np.rint(np.clip(saliency, 0, 1) * 255).astype(np.uint8), milliseconds


def read_image(images: str, path: bytes) -> np.ndarray:
    """One image as (H, W, 3) uint8 RGB; UsageError where it cannot be read."""
    try:
        return decode(read_bytes(images, path))
    except ImageError as error:
        raise UsageError(f"{os.path.join(images, os.fsdecode(path))}: {error}") from error


def read_grey(folder: str, path: bytes, shape: tuple[int, int], what: str) -> np.ndarray:
    """The (H, W) uint8 PNG that belongs to an image; UsageError where it is missing or of another
    size."""
    file = mask_path(folder, path)
    grey = cv2.imread(file, cv2.IMREAD_GRAYSCALE) if os.path.exists(file) else None
    if grey is None:
        raise UsageError(f"{file}: no {what} that can be read")
    if grey.shape != shape:
        raise UsageError(
            f"{file}: {what} of {grey.shape[1]}x{grey.shape[0]} px, the image has {shape[1]}x{shape[0]}"
        )
    return grey


def mask_path(folder: str, path: bytes) -> str:
    """Where the PNG of an image's relative path lies in `folder`."""
    return os.path.join(folder, os.path.splitext(os.fsdecode(path))[0] + ".png")


def _chosen(images: str, truth: str, half: str, limit: int | None) -> list[bytes]:
    if half not in ("all", "even", "odd"):
        raise UsageError(f"--half is all, even or odd, not {half}")
    if limit is not None and limit < 1:
        raise UsageError("--limit must be at least 1")
    if not os.path.isdir(truth):
        raise UsageError(f"{truth}: no such folder of true masks")
    try:
        paths = list_images(images).tolist()
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(str(error)) from error
    if half != "all":
        paths = [p for p in paths if _number(p) % 2 == (half == "odd")]
    paths = [p for p in paths if os.path.exists(mask_path(truth, p))]
    if not paths:
        raise UsageError(f"{truth}: no mask (.png) of any image in {images}")
    if limit is not None and limit < len(paths):
        paths = [paths[i * len(paths) // limit] for i in range(limit)]
    return paths


def _number(path: bytes) -> int:
    found = re.findall(rb"\d+", os.path.splitext(path)[0])
    if not found:
        raise UsageError(f"--half needs numbered images; {os.fsdecode(path)} has no number")
    return int(found[-1])


def _score_block(
    images: str, truth: str, paths: list[bytes], names: list[str], maps: str | None, refine: str
) -> list[list[tuple[Scores, float]]]:
    """Scores and milliseconds, by image and estimator."""
    cv2.setNumThreads(0)
    for name in names:  # compiled functions are loaded on first use, which is no image's time
        predict(np.zeros((32, 32, 3), np.uint8), name, refine)
    rows = []
    for path in paths:
        image = read_image(images, path)
        true = read_grey(truth, path, image.shape[:2], "true mask") >= FOREGROUND
        nearest = nearest_foreground(true) if true.any() else None
        if maps is not None:
            rows.append(
                [(score(read_grey(maps, path, image.shape[:2], "map"), true, nearest), 0.0)]
            )
            continue
        row = []
        for name in names:
            saliency, milliseconds = predict(image, name, refine)
            row.append((score(saliency, true, nearest), milliseconds))
        rows.append(row)
    return rows
