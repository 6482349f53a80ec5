"""One style for every figure of the notebooks: titles, units, and labels that can be read in light
and in dark."""

from __future__ import annotations

import io

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

# colours that people with any kind of colour vision tell apart (Okabe and Ito, 2008)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# a page of its own behind every figure, so that dark labels stay readable in a dark notebook
STYLE = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "text.color": "#222222",
    "axes.labelcolor": "#222222",
    "axes.edgecolor": "#666666",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "figure.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "axes.prop_cycle": cycler(color=COLOURS),
}
styled = rc_context(
    STYLE
)  # decorates what draws a figure: titles and legends take their style when they are set


class Page(Figure):
    """A figure that a notebook shows as it is, whatever matplotlib backend its kernel has."""

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.savefig(out, format="png", dpi=100)
        return out.getvalue()


@styled
def axes_grid(
    rows: int, columns: int, width: float, height: float, title: str = "", **options
) -> tuple[Figure, np.ndarray]:
    """A figure in the common style and its (rows, columns) axes, each `width` x `height` inches.

    Args:
        options: of Figure.subplots (sharey=True, ...).
    """
    figure = Page(
        figsize=(width * columns, height * rows + 0.4 * bool(title)), layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    figure.suptitle(title)
    return figure, axes


def picture(axis: Axes, image: np.ndarray, title: str = "") -> None:
    """Show an (H, W) or (H, W, 3) uint8 picture without ticks, the title above."""
    axis.imshow(image, cmap="gray", vmin=0, vmax=255)
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_visible(False)
    axis.set_title(title, fontsize=8)
