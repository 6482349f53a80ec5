"""Pictures of a mask cache: distributions of its quality columns; images, masks and overlays."""

import os

import numpy as np
from matplotlib.figure import Figure

from data.cache.reader import Cache
from data.cache.shard import QUALITY
from data.resize import resize
from evaluate.masks.examples import overlay, read, usable_by
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
    usable = cache.status == 0
    title = f"{cache.identity['estimator']}: {usable.sum():,} usable masks"
    figure, axes = axes_grid(1, len(QUALITY), 3, 2.4, title, sharey=True)
    for axis, name in zip(axes[0], QUALITY, strict=True):
        values = cache.column(f"quality/{name}")[usable]
        axis.hist(values, bins=np.linspace(0, 1, 41))
        axis.axvline(np.median(values), color="black", linestyle=":", linewidth=1)
        axis.set_xlabel(UNITS[name])
        axis.set_title(f"median {np.median(values):.2f}")
    axes[0, 0].set_ylabel("images")
    return figure


def rows_at(cache: Cache, column: str, where: str | float, count: int) -> np.ndarray:
    """At most `count` rows of usable images around a place in the order of quality/`column`.

    Args:
        where: lowest, median, highest, random, or a quantile (0..1).

    Returns:
        (M,) int64, by rising value.
    """
    order = usable_by(cache, column)
    count = min(count, len(order))
    if where == "random":
        return order[np.sort(np.random.default_rng(0).permutation(len(order))[:count])]
    quantile = {"lowest": 0.0, "median": 0.5, "highest": 1.0}.get(where, where)
    first = round(quantile * len(order) - count / 2)
    first = max(0, min(first, len(order) - count))
    return order[first : first + count]


@styled
def gallery(
    cache: Cache,
    images: str | os.PathLike,
    rows: np.ndarray,
    title: str = "",
    threshold: int | None = None,
) -> Figure:
    """One column an image: the picture, its mask, the overlay; coverage above.

    Args:
        threshold: 0..255; the masks are cut there.
    """
    title = title if len(rows) else f"{title}: none"
    figure, axes = axes_grid(3, max(1, len(rows)), 1.4, 1.4, title)
    for axis in axes.flat:
        picture(axis, np.full((1, 1), 255, np.uint8))
    for column, row in zip(axes.T, np.asarray(rows).tolist(), strict=False):
        image, mask = read(cache, images, row), cache.mask(row)
        if threshold is not None:
            mask = np.uint8(255) * (mask >= threshold)
        picture(column[0], image, f"covers {mask.mean() / 255:.0%}")
        picture(column[1], resize(mask, image.shape[1], image.shape[0]))
        picture(column[2], overlay(image, mask))
    for axis, name in zip(axes[:, 0], ("image", "mask", "overlay"), strict=True):
        axis.set_ylabel(name)
    return figure
