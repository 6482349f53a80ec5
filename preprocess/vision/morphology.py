"""Grey-scale morphological reconstruction (Vincent, IEEE TIP 1993): flat zones without moving their
borders."""

from __future__ import annotations

import cv2
import numpy as np
from numba import njit


def opening_closing(image: np.ndarray, side: int) -> np.ndarray:
    """Opening by reconstruction, then closing by reconstruction, with a square of `side` px.

    Args:
        image: (h, w) uint8.

    Returns:
        (h, w) uint8: bright spots, then dark spots, that the square does not fit into are gone;
        what is left keeps its contours.
    """
    square = np.ones((side, side), np.uint8)
    opened = reconstruct(cv2.erode(image, square), image)
    return 255 - reconstruct(255 - cv2.dilate(opened, square), 255 - opened)


def reconstruct(marker: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Reconstruction by dilation, 8-connected: the greatest image that grows from `marker` and
    stays under `mask`.

    Args:
        marker, mask: (h, w) uint8; the marker is taken as at most the mask.
    """
    return _reconstruct(np.minimum(marker, mask), np.ascontiguousarray(mask))


@njit("uint8[:, ::1](uint8[:, ::1], uint8[:, ::1])", cache=True, nogil=True)
def _reconstruct(out, mask):
    """Vincent's hybrid: a raster and an inverse pass settle most pixels, a queue the rest. `out` is
    changed."""
    h, w = out.shape
    size = h * w + 1  # of the ring; a pixel waits in it at most once
    queue = np.empty(size, np.int64)
    waiting = np.zeros((h, w), np.bool_)
    first, last = 0, 0
    for y in range(h):
        for x in range(w):
            best = out[y, x]
            if y > 0:
                for nx in range(max(x - 1, 0), min(x + 2, w)):
                    best = max(best, out[y - 1, nx])
            if x > 0:
                best = max(best, out[y, x - 1])
            out[y, x] = min(best, mask[y, x])
    for y in range(h - 1, -1, -1):
        for x in range(w - 1, -1, -1):
            best = out[y, x]
            if y + 1 < h:
                for nx in range(max(x - 1, 0), min(x + 2, w)):
                    best = max(best, out[y + 1, nx])
            if x + 1 < w:
                best = max(best, out[y, x + 1])
            best = min(best, mask[y, x])
            out[y, x] = best
            grows = x + 1 < w and out[y, x + 1] < best and out[y, x + 1] < mask[y, x + 1]
            if y + 1 < h:
                for nx in range(max(x - 1, 0), min(x + 2, w)):
                    grows = grows or (out[y + 1, nx] < best and out[y + 1, nx] < mask[y + 1, nx])
            if grows:
                waiting[y, x] = True
                queue[last] = y * w + x
                last += 1
    while first != last:
        y, x = queue[first] // w, queue[first] % w
        first = first + 1 if first + 1 < size else 0
        waiting[y, x] = False
        level = out[y, x]
        for ny in range(max(y - 1, 0), min(y + 2, h)):
            for nx in range(max(x - 1, 0), min(x + 2, w)):
                reached = min(level, mask[ny, nx])
                if out[ny, nx] < reached:
                    out[ny, nx] = reached
                    if not waiting[ny, nx]:
                        waiting[ny, nx] = True
                        queue[last] = ny * w + nx
                        last = last + 1 if last + 1 < size else 0
    return out
