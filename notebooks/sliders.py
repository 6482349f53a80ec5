"""Sliders: a mask at a threshold, and the masks at a quantile of a quality column."""

from __future__ import annotations

import os

import numpy as np
from ipywidgets import FloatSlider, IntSlider, interactive
from matplotlib.figure import Figure

from data.cache.reader import Cache
from data.cache.shard import QUALITY
from evaluate.masks.examples import overlay, read
from evaluate.style import axes_grid, picture, styled
from notebooks.gallery import gallery, rows_at


@styled
def at_threshold(
    cache: Cache, images: str | os.PathLike, rows: np.ndarray, threshold: int
) -> Figure:
    """Images above, and below what a mask cut at `threshold` (0..255) keeps of them."""
    title = f"masks at or above {threshold} of 255"
    figure, axes = axes_grid(2, max(1, len(rows)), 1.4, 1.4, title)
    for (above, below), row in zip(axes.T, np.asarray(rows).tolist(), strict=False):
        image = read(cache, images, row)
        kept = (cache.mask(row) >= threshold).astype(np.uint8) * 255
        picture(above, image)
        picture(below, overlay(image, kept), f"keeps {kept.mean() / 255:.0%}")
    return figure


def threshold_slider(cache: Cache, images: str | os.PathLike, rows: np.ndarray) -> interactive:
    """A widget: at_threshold under a slider."""
    return interactive(
        lambda threshold: at_threshold(cache, images, rows, threshold),
        threshold=IntSlider(128, 0, 255, 8, continuous_update=False),
    )


def quantile_slider(cache: Cache, images: str | os.PathLike, count: int = 8) -> interactive:
    """A widget: `count` masks around a quantile of a quality column that is chosen."""

    def show(column: str, quantile: float) -> Figure:
        title = f"around the {quantile:.0%} quantile of {column}"
        return gallery(cache, images, rows_at(cache, column, quantile, count), title)

    slider = FloatSlider(value=0.5, min=0, max=1, step=0.05, continuous_update=False)
    return interactive(show, column=list(QUALITY), quantile=slider)
