"""Sliders for notebooks: a mask at a threshold, and the masks at a quantile of a quality column."""

from __future__ import annotations

import os

import cv2
import numpy as np
from matplotlib.figure import Figure

from data.cache.reader import Cache
from data.cache.shard import QUALITY
from evaluate.masks.gallery import gallery, overlay, read, usable_by
from evaluate.style import axes_grid, picture, styled


@styled
def at_threshold(
    cache: Cache, images: str | os.PathLike, rows: np.ndarray, threshold: int
) -> Figure:
    """Images above, and below what a mask cut at `threshold` (0..255) keeps of them."""
    figure, axes = axes_grid(
        2, max(1, len(rows)), 1.4, 1.4, f"masks at or above {threshold} of 255"
    )
    for column, row in enumerate(np.asarray(rows).tolist()):
        image = read(cache, images, row)
        kept = (cache.mask(row) >= threshold).astype(np.uint8) * 255
        picture(axes[0, column], image)
        picture(
            axes[1, column],
            overlay(image, cv2.resize(kept, image.shape[1::-1])),
            f"keeps {kept.mean() / 255:.0%}",
        )
    return figure


def at_quantile(
    cache: Cache, images: str | os.PathLike, column: str, quantile: float, count: int = 8
) -> Figure:
    """`count` masks around a quantile (0..1) of quality/`column`."""
    order = usable_by(cache, column)
    middle = round(quantile * (len(order) - 1))
    first = max(0, min(middle - count // 2, len(order) - count))
    return gallery(
        cache,
        images,
        order[first : first + count],
        f"around the {quantile:.0%} quantile of {column}",
    )


def threshold_slider(cache: Cache, images: str | os.PathLike, rows: np.ndarray):
    """A widget: at_threshold under a slider."""
    from ipywidgets import IntSlider, interactive

    return interactive(
        lambda threshold: at_threshold(cache, images, rows, threshold),
        threshold=IntSlider(128, 0, 255, 8, continuous_update=False),
    )


def quantile_slider(cache: Cache, images: str | os.PathLike):
    """A widget: at_quantile under a slider and a choice of the column."""
    from ipywidgets import FloatSlider, interactive

    return interactive(
        lambda column, quantile: at_quantile(cache, images, column, quantile),
        column=list(QUALITY),
        quantile=FloatSlider(value=0.5, min=0, max=1, step=0.05, continuous_update=False),
    )
