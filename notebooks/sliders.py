"""Sliders: a mask at a threshold, and the masks at a quantile of a quality column."""

import os

import numpy as np
from ipywidgets import FloatSlider, IntSlider, interactive
from matplotlib.figure import Figure

from data.cache.reader import Cache
from data.cache.shard import QUALITY
from notebooks.gallery import gallery, rows_at


def threshold_slider(cache: Cache, images: str | os.PathLike, rows: np.ndarray) -> interactive:
    """A widget: images with what a cut at a threshold (0..255) keeps of their masks."""

    def show(threshold: int) -> Figure:
        return gallery(cache, images, rows, f"masks at or above {threshold} of 255", threshold)

    return interactive(show, threshold=IntSlider(128, 0, 255, 8, continuous_update=False))


def quantile_slider(cache: Cache, images: str | os.PathLike, count: int = 8) -> interactive:
    """A widget: `count` masks around a quantile of a quality column that is chosen."""

    def show(column: str, quantile: float) -> Figure:
        title = f"around the {quantile:.0%} quantile of {column}"
        return gallery(cache, images, rows_at(cache, column, quantile, count), title)

    slider = FloatSlider(value=0.5, min=0, max=1, step=0.05, continuous_update=False)
    return interactive(show, column=list(QUALITY), quantile=slider)
