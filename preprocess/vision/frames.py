"""Artificial frames (a drawn border around a photograph): find them, so that they do not pose as
the background."""

from __future__ import annotations

import numpy as np
from numba import njit

MAX_WIDTH = 0.075  # of the longer side: 30 px of a 400 px image
DENSITY = 0.6  # of a row (or column) that must be edge to be a frame's
BOTH = 0.9  # of two neighbouring rows together


def inner_box(grey: np.ndarray) -> tuple[int, int, int, int]:
    """The part of an image inside its artificial frame.

    A row (column) within MAX_WIDTH of a side of which more than DENSITY is Sobel edge ends a frame
    on that side. Where any side has a frame, the sides without one take the widest one's width (Zhu
    et al., CVPR 2014, the authors' demo).

    Args:
        grey: (h, w) uint8.

    Returns:
        (top, bottom, left, right): image[top:bottom, left:right] is free of the frame; (0, h, 0, w)
        without a frame.
    """
    height, width = grey.shape
    reach = round(MAX_WIDTH * max(height, width))
    if min(height, width) < 4 * reach or reach < 2:  # too narrow to tell a frame from the picture
        return 0, height, 0, width
    top, bottom, left, right = _frame_widths(np.ascontiguousarray(grey), reach, DENSITY)
    widest = max(top, bottom, left, right)
    if widest == 0:
        return 0, height, 0, width
    return top or widest, height - (bottom or widest), left or widest, width - (right or widest)


@njit("float32(uint8[:, ::1], int64, int64)", cache=True, nogil=True, inline="always")
def _gradient(grey, y, x):
    """The squared Sobel gradient at a pixel, negative where the change is more vertical than
    horizontal."""
    h, w = grey.shape
    up, down = max(y - 1, 0), min(y + 1, h - 1)
    left, right = max(x - 1, 0), min(x + 1, w - 1)
    ul, u, ur = np.float32(grey[up, left]), np.float32(grey[up, x]), np.float32(grey[up, right])
    dl, d, dr = (
        np.float32(grey[down, left]),
        np.float32(grey[down, x]),
        np.float32(grey[down, right]),
    )
    ml, mr = np.float32(grey[y, left]), np.float32(grey[y, right])
    gx = (ur + 2 * mr + dr) - (ul + 2 * ml + dl)
    gy = (dl + 2 * d + dr) - (ul + 2 * u + ur)
    total = gx * gx + gy * gy
    return total if abs(gx) >= abs(gy) else -total


@njit("int64[::1](int64[::1])", cache=True, nogil=True)
def _with_next(counts):
    """Each line's count with that of the line before it."""
    out = counts.copy()
    out[1:] += counts[:-1]
    return out


@njit("UniTuple(int64, 4)(uint8[:, ::1], int64, float64)", cache=True, nogil=True)
def _frame_widths(grey, reach, density):
    """Widths in px of the frame at the top, bottom, left and right; 0 where there is none."""
    h, w = grey.shape
    signed = np.empty((h, w), np.float32)
    total, count = 0.0, 0
    for y in range(h):
        border = y <= reach or y >= h - 1 - reach
        for x in range(w):
            if border or x <= reach or x >= w - 1 - reach:
                signed[y, x] = _gradient(grey, y, x)
            elif (x + y) % 4:
                continue  # inside, a quarter of the pixels tells the mean as well
            else:
                signed[y, x] = _gradient(grey, y, x)
            weight = 1 if border or x <= reach or x >= w - 1 - reach else 4
            total += weight * abs(signed[y, x])
            count += weight
    cutoff = 4.0 * total / count  # the usual automatic Sobel threshold
    rows, columns = np.zeros(h, np.int64), np.zeros(w, np.int64)
    for y in range(h):
        inside = reach <= y < h - reach
        x = -1
        while x + 1 < w:
            x += 1
            if inside and x == reach:
                x = w - reach
            strength = abs(signed[y, x])
            if strength <= cutoff:
                continue
            if signed[y, x] > 0:  # thinned: an edge is one pixel wide, across its own direction
                before, after = signed[y, max(x - 1, 0)], signed[y, min(x + 1, w - 1)]
            else:
                before, after = signed[max(y - 1, 0), x], signed[min(y + 1, h - 1), x]
            if abs(before) <= strength and strength > abs(after):
                rows[y] += 1
                columns[x] += 1
    top, bottom, left, right = 0, 0, 0, 0
    # Noise may scatter a step's thinned edge over two lines: together they must hold nearly all of
    # it.
    rows = np.maximum(rows / w, _with_next(rows) / w * (density / BOTH))
    columns = np.maximum(columns / h, _with_next(columns) / h * (density / BOTH))
    for i in range(reach):
        if rows[i] > density:
            top = i + 1
        if rows[h - 1 - i] > density:
            bottom = i + 1
        if columns[i] > density:
            left = i + 1
        if columns[w - 1 - i] > density:
            right = i + 1
    return top, bottom, left, right
