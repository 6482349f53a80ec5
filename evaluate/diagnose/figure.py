"""Heat maps of several runs on the same images, side by side."""

from __future__ import annotations

import os

import cv2
import numpy as np
from matplotlib.axes import Axes

from evaluate.diagnose.localisation import HALF
from evaluate.diagnose.network import Pictures
from evaluate.style import Page, axes_grid, picture, styled

RIGHT, WRONG = "#009E73", "#D55E00"


def over(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A heat map over the grey image: from blue (nothing) to red (the map's maximum).

    Args:
        image: (s, s, 3) uint8.
        heat: (s, s) floats, not negative.

    Returns:
        (s, s, 3) uint8 RGB.
    """
    level = np.rint(255 * heat / max(float(heat.max()), 1e-30)).astype(np.uint8)
    colours = cv2.applyColorMap(level, cv2.COLORMAP_JET)[..., ::-1]
    grey = image.mean(2, keepdims=True)
    return np.rint(0.5 * grey + 0.5 * colours).astype(np.uint8)


@styled
def sheet(pictures: dict[str, Pictures]) -> Page:
    """An image a row, a run and decision a column; a map's frame is green where the decision is
    right, else red; the object's outline in white."""
    first = next(iter(pictures.values()))
    columns = [(run, kind) for run, shown in pictures.items() for kind in shown.maps]
    title = "where the decision comes from (Grad-CAM); green: right, red: wrong"
    figure, axes = axes_grid(len(first.images), 2 + len(columns), 1.5, 1.5, title)
    for i, line in enumerate(axes):
        picture(line[0], first.images[i], "" if i else "image")
        picture(line[1], first.objects[i], "" if i else "object")
        for axis, (run, kind) in zip(line[2:], columns, strict=True):
            shown = pictures[run]
            picture(
                axis, over(shown.images[i], shown.maps[kind][i]), "" if i else _title(run, kind)
            )
            _outline(axis, shown.objects[i])
            axis.spines[:].set(visible=True, linewidth=2)
            axis.spines[:].set_color(RIGHT if shown.right[kind][i] else WRONG)
    return figure


def _title(run: str, kind: str) -> str:
    untrained = "untrained " if run.startswith("untrained:") else ""
    return f"{untrained}{os.path.basename(run.rstrip('/'))}\n{kind}"


def _outline(axis: Axes, mask: np.ndarray) -> None:
    inside = mask >= HALF
    if inside.any() and not inside.all():
        axis.contour(mask, levels=[HALF - 0.5], colors="white", linewidths=0.8)
