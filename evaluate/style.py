"""One style for every figure: titles, units, and labels that can be read in light and in dark."""

import io
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler

from data.io import write_bytes

# colours that people with any kind of colour vision distinguish (Okabe and Ito, 2008)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# a page of its own behind every figure, so that dark labels stay readable in a dark notebook
STYLE = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "text.color": "#222222",
    "text.parse_math": False,  # a dollar in a run's name is a dollar
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
    "axes.prop_cycle": cycler(linestyle=("-", "--", ":")) * cycler(color=COLOURS),
}
# decorates what draws a figure: titles and legends take their style when they are set
styled = rc_context(STYLE)


class Page(Figure):
    """A figure that a notebook shows as it is, whatever matplotlib backend its kernel has."""

    def png(self, dpi: int = 100) -> bytes:
        """The figure as a PNG file's bytes."""
        out = io.BytesIO()
        self.savefig(out, format="png", dpi=dpi)
        return out.getvalue()

    _repr_png_ = png

    def write(self, file: Path, dpi: int = 100) -> Path:
        """Write a PNG file atomically; its path."""
        write_bytes(file, self.png(dpi))
        return file


def label(name: str) -> str:
    """A name of a file or run as matplotlib can show it: bytes that are no UTF-8 become "?", and a
    leading underscore, which would hide it from a legend, follows a space."""
    shown = name.encode(errors="replace").decode()
    return f" {shown}" if shown.startswith("_") else shown


@styled
def axes_grid(
    rows: int, columns: int, width: float, height: float, title: str = "", **options
) -> tuple[Page, np.ndarray]:
    """A figure in the common style and its (rows, columns) axes, each `width` x `height` inches.

    Args:
        options: of Figure.subplots (sharey=True, ...).
    """
    size = width * columns, height * rows + 0.4 * bool(title)
    figure = Page(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    figure.suptitle(label(title))
    return figure, axes


def picture(axis: Axes, image: np.ndarray, title: str = "") -> None:
    """Show an (H, W) or (H, W, 3) uint8 picture without ticks, the title above."""
    axis.imshow(image, cmap="gray", vmin=0, vmax=255)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.set_title(label(title), fontsize=8)
