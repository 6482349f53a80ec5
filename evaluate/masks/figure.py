"""Figures of saliency: images, true masks and maps side by side; curves over the thresholds."""

import numpy as np

from evaluate.style import Page, axes_grid, label, picture, styled

PANELS = (("recall", "precision"), ("threshold", "f"), ("threshold", "e"))
LABELS = {"f": "F, β² = 0.3", "e": "E", "threshold": "threshold of the map, 0 to 255"}


@styled
def examples(rows: list[dict[str, np.ndarray]]) -> Page:
    """An image a row: pictures by title, the same titles in every row."""
    figure, axes = axes_grid(len(rows), len(rows[0]), 1.6, 1.3)
    for i, (line, pictures) in enumerate(zip(axes, rows, strict=True)):
        for axis, (title, image) in zip(line, pictures.items(), strict=True):
            picture(axis, image, "" if i else title)
    return figure


@styled
def curves(estimators: dict[str, dict[str, list[float]]], title: str) -> Page:
    """Precision over recall, F and E over the threshold.

    Args:
        estimators: name -> evaluate.masks.metrics.curves.
    """
    figure, (axes,) = axes_grid(1, len(PANELS), 3.6, 3.2, title)
    for axis, (x, y) in zip(axes, PANELS, strict=True):
        for name, values in estimators.items():
            axis.plot(values[x], values[y], label=label(name), linewidth=1.2)
        axis.set_xlabel(LABELS.get(x, x))
        axis.set_ylabel(LABELS.get(y, y))
        axis.set_ylim(0, 1)
    axes[0].legend()
    return figure
