"""Pictures of a mask cache for notebooks: distributions, and images, masks and overlays chosen by a
quality column."""

from __future__ import annotations

import os
from functools import lru_cache

import cv2
import numpy as np
from matplotlib.figure import Figure

from data.cache.reader import Cache
from data.cache.shard import QUALITY
from data.sources.images import ImageError, Images, decode, open_images, read_bytes
from data.sources.packed import is_pack
from evaluate.style import axes_grid, picture, styled

UNITS = {
    "coverage": "coverage, share of the image",
    "border": "border, share of it covered",
    "contrast": "contrast, share of the largest",
    "entropy": "entropy, bits",
}


@styled
def distributions(cache: Cache) -> Figure:
    """A histogram of every quality column over the usable masks, with its median."""
    title = f"{cache.identity['estimator']}: {(cache.status == 0).sum():,} usable masks"
    figure, axes = axes_grid(1, len(QUALITY), 3, 2.4, title, sharey=True)
    for axis, name in zip(axes[0], QUALITY, strict=True):
        values = cache.column(f"quality/{name}")[cache.status == 0]
        axis.hist(values, bins=np.linspace(0, 1, 41))
        axis.axvline(np.median(values), color="black", linestyle=":", linewidth=1)
        axis.set_xlabel(UNITS[name])
        axis.set_title(f"median {np.median(values):.2f}")
    axes[0, 0].set_ylabel("images")
    return figure


def rows_by_quality(cache: Cache, column: str, count: int) -> np.ndarray:
    """`count` rows of usable images, evenly from the lowest to the highest value of
    quality/`column`.

    Returns:
        (count,) int64, fewer where the cache has fewer.
    """
    order = usable_by(cache, column)
    return order[np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)]


def rows_at(cache: Cache, column: str, where: str, count: int, seed: int = 0) -> np.ndarray:
    """`count` rows of usable images at one end of quality/`column`, in the middle of it, or
    anywhere.

    Args:
        where: lowest, median, highest, or random.

    Returns:
        (count,) int64, fewer where the cache has fewer, by rising value.
    """
    order = usable_by(cache, column)
    count = min(count, len(order))
    if where == "random":
        return order[np.sort(np.random.default_rng(seed).permutation(len(order))[:count])]
    first = {"lowest": 0, "median": (len(order) - count) // 2, "highest": len(order) - count}[where]
    return order[first : first + count]


def usable_by(cache: Cache, column: str) -> np.ndarray:
    """(M,) int64: the rows of all usable images, by rising quality/`column`."""
    usable = np.flatnonzero(cache.status == 0)
    return usable[np.argsort(cache.column(f"quality/{column}")[usable], kind="stable")]


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


def read(cache: Cache, images: str | os.PathLike, row: int) -> np.ndarray:
    """The image of a cache's row, (H, W, 3) uint8 RGB, from a folder or anything else that
    `open_images` takes.

    Raises:
        ImageError: it is not there, or cannot be decoded.
    """
    if os.path.isdir(images) and not is_pack(images):
        return decode(read_bytes(images, cache.paths[row]))
    opened, path = _opened(os.fspath(images)), cache.paths[row]
    place = min(int(np.searchsorted(opened.paths, path)), len(opened) - 1)
    if opened.paths[place] != path:  # or its neighbour would be shown under its mask
        raise ImageError("missing", f"{os.fsdecode(path)}: is not in {images}")
    return decode(opened.read(place))


@lru_cache(maxsize=2)
def _opened(images: str) -> Images:
    return open_images(images)


@styled
def gallery(cache: Cache, images: str | os.PathLike, rows: np.ndarray, title: str = "") -> Figure:
    """One column an image: the picture, its mask, the overlay; coverage above."""
    figure, axes = axes_grid(
        3, max(1, len(rows)), 1.4, 1.4, title if len(rows) else f"{title}: none"
    )
    for axis in axes.flat:
        picture(axis, np.full((1, 1), 255, np.uint8))
    for column, row in enumerate(np.asarray(rows).tolist()):
        image, mask = read(cache, images, row), cache.mask(row)
        square = cv2.resize(mask, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        for axis, shown in zip(axes[:, column], (image, square, overlay(image, mask)), strict=True):
            picture(axis, shown)
        axes[0, column].set_title(f"covers {mask.mean() / 255:.0%}", fontsize=8)
    for axis, name in zip(axes[:, 0], ("image", "mask", "overlay"), strict=True):
        axis.set_ylabel(name)
    return figure
