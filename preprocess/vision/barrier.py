"""The minimum barrier distance transform by raster passes (Zhang et al., ICCV 2015, section 3,
"fast MBD")."""

from __future__ import annotations

import numpy as np
from numba import njit


def minimum_barrier(image: np.ndarray, passes: int = 3) -> np.ndarray:
    """Approximate minimum barrier distance of each pixel to the image's border, summed over
    channels.

    The barrier of a path is its highest minus its lowest value; passes alternate between raster and
    inverse order.

    Args:
        image: (h, w, 3) uint8.

    Returns:
        (h, w) float32, 0 on the border, at most 3 * 255.
    """
    return _passes(np.ascontiguousarray(image), passes)


@njit(
    "Tuple((int32, int32, int32))(int32, int32, int32, int32, int32, int32, int32, int32)",
    cache=True,
    nogil=True,
    inline="always",
)
def _relax(value, distance, upper, lower, upper_a, lower_a, upper_b, lower_b):
    """The cheapest of the pixel's own path and those through two neighbours: its distance, upper
    and lower value."""
    upper_a, lower_a = max(upper_a, value), min(lower_a, value)
    upper_b, lower_b = max(upper_b, value), min(lower_b, value)
    a, b = upper_a - lower_a, upper_b - lower_b
    if a <= b:
        if a < distance:
            return a, upper_a, lower_a
    elif b < distance:
        return b, upper_b, lower_b
    return distance, upper, lower


@njit("float32[:, ::1](uint8[:, :, ::1], int64)", cache=True, nogil=True)
def _passes(image, passes):
    h, w = image.shape[0], image.shape[1]
    distance = np.full((h, w, 3), 100000, np.int32)
    upper, lower = np.empty((h, w, 3), np.int32), np.empty((h, w, 3), np.int32)
    for y in range(h):
        for x in range(w):
            for c in range(3):
                upper[y, x, c] = lower[y, x, c] = image[y, x, c]
                if y == 0 or y == h - 1 or x == 0 or x == w - 1:
                    distance[y, x, c] = 0
    for number in range(passes):
        forward = number % 2 == 0
        step = -1 if forward else 1
        for i in range(1, h - 1):
            y = i if forward else h - 1 - i
            for j in range(1, w - 1):
                x = j if forward else w - 1 - j
                for c in range(3):
                    distance[y, x, c], upper[y, x, c], lower[y, x, c] = _relax(
                        np.int32(image[y, x, c]),
                        distance[y, x, c],
                        upper[y, x, c],
                        lower[y, x, c],
                        upper[y + step, x, c],
                        lower[y + step, x, c],
                        upper[y, x + step, c],
                        lower[y, x + step, c],
                    )
    total = np.empty((h, w), np.float32)
    for y in range(h):
        for x in range(w):
            total[y, x] = distance[y, x, 0] + distance[y, x, 1] + distance[y, x, 2]
    return total
