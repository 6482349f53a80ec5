"""The demo's figure: images, their masks, the pasted views, and the bars of the results."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen needed

import matplotlib.pyplot as plt
import numpy as np

from data.cache.reader import Cache
from data.sources.images import class_names, decode, read_bytes
from train.copy_paste import Box, CopyPaste
from train.masks import shuffled_rows
from train.streams import PASTE, stream

EXAMPLES = 10


def demo_figure(out: Path, results: dict) -> Path:
    """Draw OUT/demo.png from OUT/images, the two caches and the results; the file's path."""
    rbd, truth = Cache(out / "masks-rbd"), Cache(out / "masks-truth")
    root = out / "images" / "train"
    # one image a class, each the median of its class by agreement of RBD with the truth: neither
    # picked nor lucky
    chosen = [_median_row(rbd, truth, name) for name in class_names(truth.paths)[:EXAMPLES]]
    shuffled = shuffled_rows(np.arange(len(truth)), results["seed"])

    figure = plt.figure(figsize=(13, 13), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.35, 1))
    axes = top.subplots(6, len(chosen), squeeze=False)
    titles = ("image", "RBD mask", "true mask", "pasted, RBD", "pasted, truth", "pasted, shuffled")
    for column, row in enumerate(chosen):
        image = decode(read_bytes(root, truth.paths[row]))
        pictures = (
            image,
            rbd.mask(row),
            truth.mask(row),
            _pasted(image, rbd.mask(row), row),
            _pasted(image, truth.mask(row), row),
            _pasted(image, truth.mask(shuffled[row]), row),
        )
        for axis, picture in zip(axes[:, column], pictures, strict=True):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, title in zip(axes[:, 0], titles, strict=True):
        axis.set_ylabel(title, fontsize=9)
    top.suptitle("One training image a class (the median by RBD's agreement with the truth)")
    _bars(bottom, results)
    path = out / "demo.png"
    figure.savefig(path, dpi=90)
    plt.close(figure)
    return path


def _median_row(masks: Cache, truth: Cache, name: str) -> int:
    rows = np.flatnonzero([p.startswith(name.encode() + b"/") for p in truth.paths.tolist()])[:200]
    errors = [np.abs(masks.mask(r).astype(np.int16) - truth.mask(r)).mean() for r in rows]
    return int(rows[np.argsort(errors)[len(rows) // 2]])


def _pasted(image: np.ndarray, mask: np.ndarray, row: int) -> np.ndarray:
    height, width = image.shape[:2]
    always = CopyPaste(probability=1.0, soften=0.0)
    return always(
        stream(PASTE, 0, 0, row), image, mask, Box(0, 0, width, height, width, height), False
    )[0]


def _bars(figure, results: dict) -> None:
    splits = ("original", "mixed_same", "mixed_rand", "only_fg", "only_bg")
    axes = figure.subplots(1, 2, sharey=True)
    names = list(results["rows"])
    for axis, probe in zip(axes, ("biased", "unbiased"), strict=True):
        for i, name in enumerate(names):
            values = [results["rows"][name][probe][split] for split in splits]
            places = np.arange(len(splits)) + (i - (len(names) - 1) / 2) * 0.16
            bars = axis.bar(places, values, 0.15, label=name)
            axis.bar_label(bars, fmt="%.0f", fontsize=7)
        axis.set_xticks(range(len(splits)), splits)
        axis.set_title(f"linear probe trained on {probe} images")
        axis.axhline(10, color="grey", linewidth=0.8, linestyle=":")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("accuracy, % (dotted: chance)")
    axes[1].legend(fontsize=8)
