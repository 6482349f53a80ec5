"""Heat maps of several runs on the same images, side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from evaluate.diagnose.looks import HALF
from evaluate.style import axes_grid, picture, styled


def over(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A heat map over the grey image: from blue (nothing) to red (the map's maximum).

    Args:
        image: (s, s, 3) uint8.  heat: (s, s) floats, not negative.

    Returns:
        (s, s, 3) uint8 RGB.
    """
    level = np.rint(255 * heat / max(float(heat.max()), 1e-30)).astype(np.uint8)
    colours = cv2.applyColorMap(level, cv2.COLORMAP_JET)[..., ::-1]
    grey = np.repeat(image.mean(2, keepdims=True), 3, 2)
    return np.rint(0.5 * grey + 0.5 * colours).astype(np.uint8)


def draw(pictures: dict[str, dict], file: Path) -> None:
    """Write `sheet` to a PNG file."""
    sheet(pictures).savefig(file, dpi=110)


def heat_maps(
    runs: Sequence[str], data: str, masks: str | None = None, examples: int = 6
) -> Figure:
    """The sheet of several runs on a few images of a data set, for notebooks; see
    evaluate.diagnose.command."""
    from evaluate.diagnose.command import run  # which draws with this file

    return sheet(
        run(runs, data, keep_maps=True, masks=masks, limit=max(50, examples), examples=examples)[
            "pictures"
        ]
    )


@styled
def sheet(pictures: dict[str, dict]) -> Figure:
    """The pictures of evaluate.diagnose.command.run: an image a row; a map's frame is green where
    the decision is right, else red; the object's outline in white."""
    first = next(iter(pictures.values()))
    kinds = list(first["maps"])
    figure, axes = axes_grid(
        len(first["images"]),
        2 + len(kinds) * len(pictures),
        1.5,
        1.5,
        "where the decision comes from (Grad-CAM); green: right, red: wrong",
    )
    for i, line in enumerate(axes):
        picture(line[0], first["images"][i], "image" if i == 0 else "")
        picture(line[1], first["object"][i], "object" if i == 0 else "")
        column = 2
        for run, shown in pictures.items():
            for kind in kinds:
                first_weights = "untrained " if run.startswith("untrained:") else ""
                title = (
                    f"{first_weights}{os.path.basename(run.rstrip('/'))}\n{kind}" if i == 0 else ""
                )
                axis = line[column]
                picture(axis, over(shown["images"][i], shown["maps"][kind][i]), title)
                if 0 < (shown["object"][i] >= HALF).sum() < shown["object"][i].size:
                    axis.contour(
                        shown["object"][i], levels=[HALF - 0.5], colors="white", linewidths=0.8
                    )
                for side in axis.spines.values():
                    side.set_visible(True)
                    side.set_linewidth(2)
                    side.set_color("#009E73" if shown["right"][kind][i] else "#D55E00")
                column += 1
    return figure
