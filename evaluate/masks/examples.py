"""Examples of a mask cache: rows chosen by a quality column, their images, and overlays."""

import os
from functools import lru_cache

import numpy as np

from data.cache.reader import Cache
from data.resize import resize
from data.sources.images import ImageError, Images, decode, open_images, read_bytes
from data.sources.packed import is_pack

OUTSIDE = np.array([120, 0, 120])  # RGB of the tint


def usable_by(cache: Cache, column: str) -> np.ndarray:
    """(M,) int64: the rows of all usable images, by rising quality/`column`."""
    usable = np.flatnonzero(cache.status == 0)
    return usable[np.argsort(cache.column(f"quality/{column}")[usable], kind="stable")]


def rows_by_quality(cache: Cache, column: str, count: int) -> np.ndarray:
    """At most `count` rows of usable images, evenly from the lowest to the highest value of
    quality/`column`.

    Returns:
        (M,) int64.
    """
    order = usable_by(cache, column)
    return order[np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)]


def read(cache: Cache, images: str | os.PathLike, row: int) -> np.ndarray:
    """The image of a cache's row, (H, W, 3) uint8 RGB, from anything that `open_images` takes.

    Raises:
        ImageError: it is not there, or cannot be decoded.
    """
    path = cache.paths[row]
    if os.path.isdir(images) and not is_pack(images):  # which need not be listed
        return decode(read_bytes(images, path))
    source = _opened(os.fspath(images))
    place = min(int(np.searchsorted(source.paths, path)), len(source) - 1)
    if source.paths[place] != path:
        raise ImageError("missing", f"{os.fsdecode(path)}: is not in {images}")
    return decode(source.read(place))


@lru_cache(maxsize=2)
def _opened(images: str) -> Images:
    return open_images(images)


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image with everything outside the mask dimmed and tinted.

    Args:
        image: (H, W, 3) uint8.
        mask: (S, S) uint8, of the whole image.

    Returns:
        (H, W, 3) uint8.
    """
    alpha = resize(mask, image.shape[1], image.shape[0])[..., None] / 255
    outside = 0.25 * image + 0.5 * OUTSIDE
    return (alpha * image + (1 - alpha) * outside).round().astype(np.uint8)
