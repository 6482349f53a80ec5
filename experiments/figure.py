"""The demo's figure: images, their masks, the pasted views, and the bars of the results."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no screen needed

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import SubFigure

from data.cache.reader import Cache
from data.sources.images import class_names, decode, read_bytes
from train.copy_paste import Box, CopyPaste
from train.masks import shuffled_rows
from train.streams import PASTE, stream

EXAMPLES = 10
TITLES = ("image", "RBD mask", "true mask", "pasted, RBD", "pasted, truth", "pasted, shuffled")
SPLITS = ("original", "mixed_same", "mixed_rand", "only_fg", "only_bg")
CHANCE = 10  # percent, of ten classes


def demo_figure(out: Path, results: dict) -> Path:
    """Draw OUT/demo.png.

    Args:
        out: the demo's folder with `images`, `masks-rbd` and `masks-truth`.
        results: of experiments.demo.demo: "seed", and "rows" with the accuracies.

    Returns:
        the file's path.
    """
    figure = plt.figure(figsize=(13, 13), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.35, 1))
    _examples(top, out, results["seed"])
    _bars(bottom, results["rows"])
    path = out / "demo.png"
    figure.savefig(path, dpi=90)
    plt.close(figure)
    return path


def _examples(figure: SubFigure, out: Path, seed: int) -> None:
    """One image a class, a column each."""
    rbd, truth = Cache(out / "masks-rbd"), Cache(out / "masks-truth")
    shuffled = shuffled_rows(np.arange(len(truth)), seed)
    names = class_names(truth.paths)[:EXAMPLES]
    axes = figure.subplots(len(TITLES), len(names), squeeze=False)
    for column, name in enumerate(names):
        row = _median_row(rbd, truth, name)
        image = decode(read_bytes(out / "images" / "train", truth.paths[row]))
        masks = rbd.mask(row), truth.mask(row)
        pasted = [_pasted(image, mask, row) for mask in (*masks, truth.mask(shuffled[row]))]
        for axis, picture in zip(axes[:, column], (image, *masks, *pasted), strict=True):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, title in zip(axes[:, 0], TITLES, strict=True):
        axis.set_ylabel(title, fontsize=9)
    figure.suptitle("One training image a class (the median by RBD's agreement with the truth)")


def _median_row(masks: Cache, truth: Cache, name: str) -> int:
    """The row of a class whose mask is neither among the best nor among the worst."""
    rows = np.flatnonzero([p.startswith(name.encode() + b"/") for p in truth.paths.tolist()])[:200]
    errors = [np.abs(masks.mask(r).astype(np.int16) - truth.mask(r)).mean() for r in rows]
    return int(rows[np.argsort(errors)[len(rows) // 2]])


def _pasted(image: np.ndarray, mask: np.ndarray, row: int) -> np.ndarray:
    height, width = image.shape[:2]
    box = Box(0, 0, width, height, width, height)
    paste = CopyPaste(probability=1.0, soften=0.0)
    return paste(stream(PASTE, 0, 0, row), image, mask, box, False)[0]


def _bars(figure: SubFigure, rows: dict[str, dict]) -> None:
    """Accuracy by split, one panel a probe, one colour a network."""
    axes = figure.subplots(1, 2, sharey=True)
    for axis, probe in zip(axes, ("biased", "unbiased"), strict=True):
        for i, (name, accuracy) in enumerate(rows.items()):
            places = np.arange(len(SPLITS)) + (i - (len(rows) - 1) / 2) * 0.16
            bars = axis.bar(places, [accuracy[probe][s] for s in SPLITS], 0.15, label=name)
            axis.bar_label(bars, fmt="%.0f", fontsize=7)
        axis.set_xticks(range(len(SPLITS)), SPLITS)
        axis.set_title(f"linear probe trained on {probe} images")
        axis.axhline(CHANCE, color="grey", linewidth=0.8, linestyle=":")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("accuracy, % (dotted: chance)")
    axes[1].legend(fontsize=8)
