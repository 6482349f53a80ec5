"""Saliency-aware cropping: each crop keeps at least a share of the foreground (CAST, Selvaraju et
al., CVPR 2021)."""

from __future__ import annotations

import cv2
import numpy as np

from train.copy_paste import Box

TRIES = 10  # boxes looked at, the first one included


def kept(sums: np.ndarray, box: Box) -> float:
    """The share of a mask's mass that lies in a box, 0..1, exact for a mask of constant squares.

    Args:
        sums: (S + 1, S + 1) of the squashed mask, as cv2.integral gives it; not all zero.
    """
    side = len(sums) - 1
    x0, x1 = (side * x / box.width for x in (box.x, box.x + box.w))
    y0, y1 = (side * y / box.height for y in (box.y, box.y + box.h))
    inside = _at(sums, x1, y1) - _at(sums, x0, y1) - _at(sums, x1, y0) + _at(sums, x0, y0)
    return inside / float(sums[-1, -1])


def _at(sums: np.ndarray, x: float, y: float) -> float:
    i, j = min(int(y), len(sums) - 2), min(int(x), len(sums) - 2)
    (a, b), (c, d) = sums[i : i + 2, j : j + 2].tolist()
    u, v = x - j, y - i
    return (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * c + u * d)


def keep(mask: np.ndarray, first: Box, share: float, draw) -> Box:
    """The first of ten boxes that keeps at least `share` of the mask's mass, or else the one that
    keeps most.

    CAST moves the crop's centre by a law of its own and falls back on the mask's bounding box; we
    keep the law of the random resized crop, so that a crop that keeps enough is the one that it
    would be without.

    Args:
        mask: (S, S) uint8, the whole image's, not all zero.
        first: the ordinary crop.  draw: () -> Box, another one, from a stream of its own.
    """
    sums = cv2.integral(mask)
    best, most = first, kept(sums, first)
    for _ in range(TRIES - 1):
        if most >= share:
            break
        box = draw()
        found = kept(sums, box)
        if found > most:
            best, most = box, found
    return best
