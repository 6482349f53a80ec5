"""Random resized crops of an image and of its mask, and crops that keep a share of the foreground
(CAST, Selvaraju et al., CVPR 2021)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from data.resize import resize
from train.resample import area

RATIO = (3 / 4, 4 / 3)  # aspect ratios of a random resized crop, as torchvision's
TRIES = 10  # boxes, the first one included, that a crop which keeps its foreground is chosen from


@dataclass(frozen=True)
class Box:
    """A crop in pixels of an image of `width` x `height`: corner (x, y), sides (w, h)."""

    x: int
    y: int
    w: int
    h: int
    width: int
    height: int


def random_box(
    rng: np.random.Generator, width: int, height: int, scale: tuple[float, float]
) -> Box:
    """A random resized crop's box with torchvision's law: area uniform in `scale`, aspect
    log-uniform in RATIO, ten tries, then the largest centred box whose aspect is allowed."""
    low, high = map(math.log, RATIO)
    for _ in range(10):
        area_share, aspect, left, top = rng.random(4).tolist()
        pixels = width * height * (scale[0] + (scale[1] - scale[0]) * area_share)
        aspect = math.exp(low + (high - low) * aspect)
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            x, y = int(left * (width - w + 1)), int(top * (height - h + 1))
            return Box(x, y, w, h, width, height)
    w = min(width, max(1, round(height * RATIO[1])))
    h = min(height, max(1, round(width / RATIO[0])))
    return Box((width - w) // 2, (height - h) // 2, w, h, width, height)


def resize_crop(
    image: np.ndarray, box: Box, size: int, flip: bool = False, out: np.ndarray | None = None
) -> np.ndarray:
    """The box of the image at (size, size, 3) uint8: area-averaged where it shrinks, linear where
    it grows.

    Args:
        flip: mirror it left to right.
        out: (size, size, 3) uint8, contiguous, filled and returned; None: a new one.
    """
    out = np.empty((size, size, 3), np.uint8) if out is None else out
    if box.w >= size and box.h >= size and image.flags.c_contiguous:
        area(image, box.x, box.y, box.w, box.h, flip, out)
        return out
    crop = image[box.y : box.y + box.h, box.x : box.x + box.w]
    resize(crop, size, size, out)
    return cv2.flip(out, 1, dst=out) if flip else out


def crop_mask(mask: np.ndarray, box: Box, size: int, flip: bool = False) -> np.ndarray:
    """The part of a squashed mask under `box`, at the view's size.

    Sub-pixel: an image pixel is a fraction of a mask pixel. Where the mask is finer than the view
    it is sampled at a whole multiple of the view's size and averaged, so that nothing is skipped.

    Args:
        mask: (S, S) uint8 of the whole image.  size: s, the view's side.
        flip: mirror it left to right.

    Returns:
        (s, s) uint8.
    """
    side = len(mask)
    scale_x = box.w * side / (box.width * size)  # mask pixels a view pixel
    scale_y = box.h * side / (box.height * size)
    times = max(1, math.ceil(max(scale_x, scale_y) - 1e-6))
    scale_x, scale_y = scale_x / times, scale_y / times
    offset_x, offset_y = box.x * side / box.width, box.y * side / box.height
    # pixel centres: view pixel u lies at mask coordinate offset + (u + 0.5) * scale - 0.5
    transform = np.array(
        [[scale_x, 0, offset_x + 0.5 * scale_x - 0.5], [0, scale_y, offset_y + 0.5 * scale_y - 0.5]]
    )
    out = cv2.warpAffine(
        mask,
        transform,
        (size * times, size * times),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    out = resize(out, size, size)
    return cv2.flip(out, 1) if flip else out


def keep(mask: np.ndarray, first: Box, share: float, draw: Callable[[], Box]) -> Box:
    """The first of ten boxes that keeps at least `share` of the mask's mass, or else the one that
    keeps most.

    NOTE: CAST moves the crop's centre by a law of its own and falls back on the mask's bounding
    box; we keep the law of the random resized crop, so that a crop that keeps enough is the one
    that it would be without.

    Args:
        mask: (S, S) uint8, the whole image's, not all zero.
        first: the ordinary crop.  draw: gives another one, from a stream of its own.
    """
    best, most = first, kept(mask, first)
    for _ in range(TRIES - 1):
        if most >= share:
            break
        box = draw()
        here = kept(mask, box)
        if here > most:
            best, most = box, here
    return best


def kept(mask: np.ndarray, box: Box) -> float:
    """The share of a squashed (S, S) mask's mass that lies in a box, 0..1, exact for a mask of
    constant squares."""
    columns = _overlap(len(mask), box.x, box.w, box.width)
    rows = _overlap(len(mask), box.y, box.h, box.height)
    return float(rows @ mask @ columns / mask.sum())


def _overlap(side: int, start: int, length: int, whole: int) -> np.ndarray:
    """(side,) of each of `side` equal parts of `whole` the share that lies in `length` from `start`
    on."""
    cells, low, high = np.arange(side), side * start / whole, side * (start + length) / whole
    return np.clip(np.minimum(cells + 1, high) - np.maximum(cells, low), 0, 1)
