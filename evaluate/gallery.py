"""Pictures of a mask cache for notebooks: images, masks and overlays, chosen by a quality column."""

from __future__ import annotations

import os

import cv2
import numpy as np
from matplotlib.figure import Figure

from data.cache import Cache
from data.images import decode, read_bytes


def rows_by_quality(cache: Cache, column: str, count: int) -> np.ndarray:
    """`count` rows of usable images, evenly from the lowest to the highest value of quality/`column`.

    Returns:
        (count,) int64, fewer where the cache has fewer.
    """
    usable = np.flatnonzero(cache.status == 0)
    order = usable[np.argsort(cache.column(f"quality/{column}")[usable], kind="stable")]
    return order[np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)]


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image with everything outside the mask dimmed and tinted.

    Args:
        image: (H, W, 3) uint8.  mask: (S, S) uint8, of the whole image.

    Returns:
        (H, W, 3) uint8.
    """
    alpha = cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)[..., None] / 255
    outside = 0.25 * image + np.array([120, 0, 120]) * 0.5
    return (alpha * image + (1 - alpha) * outside).round().astype(np.uint8)


def gallery(cache: Cache, images: str | os.PathLike, rows: np.ndarray, title: str = "") -> Figure:
    """One column an image: the picture, its mask, the overlay; coverage above."""
    figure = Figure(figsize=(1.5 * len(rows), 4.8), layout="constrained")
    axes = figure.subplots(3, len(rows), squeeze=False)
    for column, row in enumerate(rows.tolist()):
        image, mask = decode(read_bytes(images, cache.paths[row])), cache.mask(row)
        for axis, picture in zip(axes[:, column], (image, mask, overlay(image, mask)), strict=True):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255, extent=(0, image.shape[1], image.shape[0], 0))
            axis.set_xticks([])
            axis.set_yticks([])
        axes[0, column].set_title(f"covers {mask.mean() / 255:.0%}", fontsize=8)
    for axis, name in zip(axes[:, 0], ("image", "mask", "overlay"), strict=True):
        axis.set_ylabel(name)
    figure.suptitle(title)
    return figure
