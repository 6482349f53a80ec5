"""The demo's figure: images, their masks, the pasted views, and the bars of the results."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

from data.cache.reader import Cache
from data.sources.images import class_names, decode, read_bytes
from evaluate.style import Page, picture, styled
from train.config import PasteSettings
from train.copy_paste import copy_paste
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


@styled
def demo_figure(out: Path, results: dict) -> Path:
    """Draw OUT/demo.png; the file.

    Args:
        out: the demo's folder with `images`, `masks-rbd` and `masks-truth`.
        results: of experiments.demo.demo: "seed", and "rows": row -> accuracies.
    """
    figure = Page(figsize=(10, 9), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.6, 1))
    _examples(top, out, results["seed"])
    _bars(bottom.subplots(), results["rows"])
    return figure.write(out / "demo.png")


def _examples(figure: SubFigure, out: Path, seed: int) -> None:
    """One image a class, a column each."""
    rbd, truth = Cache(out / "masks-rbd"), Cache(out / "masks-truth")
    shuffled = shuffled_rows(np.arange(len(truth)), seed)
    names = class_names(truth.paths)[:EXAMPLES]
    axes = figure.subplots(len(TITLES), len(names), squeeze=False)
    for column, name in zip(axes.T, names, strict=True):
        row = _median_row(rbd, truth, name)
        image = decode(read_bytes(out / "images" / "train", truth.paths[row]))
        mask = rbd.mask(row)
        pasted = [_pasted(image, m, row) for m in (mask, truth.mask(shuffled[row]))]
        for axis, shown in zip(column, (image, mask, *pasted), strict=True):
            picture(axis, shown)
    for axis, title in zip(axes[:, 0], TITLES, strict=True):
        axis.set_ylabel(title, fontsize=13)


def _median_row(masks: Cache, truth: Cache, name: str) -> int:
    """The row of a class whose mask is neither among the best nor among the worst."""
    rows = np.flatnonzero(np.char.startswith(truth.paths, name.encode() + b"/"))[:200]
    errors = [np.abs(masks.mask(r).astype(np.int16) - truth.mask(r)).mean() for r in rows]
    return int(rows[np.argsort(errors)[len(rows) // 2]])


def _pasted(image: np.ndarray, mask: np.ndarray, row: int) -> np.ndarray:
    height, width = image.shape[:2]
    box = Box(0, 0, width, height, width, height)
    always = PasteSettings(paste_p=1.0, soften_p=0.0)
    return copy_paste(always, stream(PASTE, 0, 0, row), image, mask, box, False)[0]


def _bars(axis: Axes, rows: dict[str, dict]) -> None:
    """Accuracy of the biased probe by split, one colour a network."""
    width = 0.9 / len(LABELS)
    for i, (name, label) in enumerate(LABELS.items()):
        places = np.arange(len(SPLITS)) + (i - (len(LABELS) - 1) / 2) * width
        values = [rows[name]["biased"][split] for split in SPLITS]
        bars = axis.bar(places, values, 0.95 * width, label=label)
        axis.bar_label(bars, fmt="%.0f", fontsize=12)
    axis.set_xticks(range(len(SPLITS)), SPLITS, fontsize=13)
    axis.axhline(CHANCE, color="grey", linewidth=0.8, linestyle=":")
    axis.set_ylabel("linear probe, % (dotted: chance)", fontsize=12)
    axis.legend(fontsize=12, loc="center left", bbox_to_anchor=(1, 0.5))
