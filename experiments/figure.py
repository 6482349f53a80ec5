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
from train.copy_paste import CopyPaste
from train.crop import Box
from train.masks import shuffled_rows
from train.streams import PASTE, stream

EXAMPLES = 7
TITLES = ("image", "RBD mask", "pasted", "shuffled")
SPLITS = ("original", "mixed_rand")
CHANCE = 10  # percent, of ten classes
LABELS = {
    "untrained": "untrained",
    "baseline": "no DiLo",
    "dilo-shuffled": "shuffled masks",
    "dilo-rbd": "RBD masks",
    "dilo-truth": "true masks",
}


def demo_figure(out: Path, results: dict) -> Path:
    """Draw OUT/demo.png.

    Args:
        out: the demo's folder with `images`, `masks-rbd` and `masks-truth`.
        results: of experiments.demo.demo: "seed", and "rows": row -> accuracies.

    Returns:
        the file's path.
    """
    figure = plt.figure(figsize=(10, 9), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.6, 1))
    _examples(top, out, results["seed"])
    _bars(bottom, results["rows"])
    path = out / "demo.png"
    figure.savefig(path, dpi=100)
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
        masks = rbd.mask(row), truth.mask(shuffled[row])
        pasted = [_pasted(image, mask, row) for mask in masks]
        for axis, picture in zip(axes[:, column], (image, masks[0], *pasted), strict=True):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axis.set_xticks([])
            axis.set_yticks([])
    for axis, title in zip(axes[:, 0], TITLES, strict=True):
        axis.set_ylabel(title, fontsize=13)


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
    """Accuracy of the biased probe by split, one colour a network."""
    axis = figure.subplots()
    width = 0.9 / len(LABELS)
    for i, (name, label) in enumerate(LABELS.items()):
        places = np.arange(len(SPLITS)) + (i - (len(LABELS) - 1) / 2) * width
        values = [rows[name]["biased"][split] for split in SPLITS]
        bars = axis.bar(places, values, 0.95 * width, label=label)
        axis.bar_label(bars, fmt="%.0f", fontsize=12)
    axis.set_xticks(range(len(SPLITS)), SPLITS, fontsize=13)
    axis.axhline(CHANCE, color="grey", linewidth=0.8, linestyle=":")
    axis.spines[["top", "right"]].set_visible(False)
    axis.set_ylabel("linear probe, % (dotted: chance)", fontsize=12)
    axis.legend(fontsize=12, loc="center left", bbox_to_anchor=(1, 0.5))
