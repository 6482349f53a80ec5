"""The minimum barrier distance transform by raster passes (Zhang et al., ICCV 2015, section 3)."""

import numpy as np

from data.kernels import njit

FAR = 100_000  # more than any barrier
PASSES = 3


def minimum_barrier(image: np.ndarray) -> np.ndarray:
    """Approximate minimum barrier distance of each pixel to the image's border.

    The barrier of a path is its highest minus its lowest value; passes alternate between raster and
    inverse order.

    Args:
        image: (h, w, 3) uint8.

    Returns:
        (h, w) float32, summed over channels: 0 on the border, at most 3 * 255.
    """
    value = image.astype(np.int32)
    distance = np.zeros_like(value)
    distance[1:-1, 1:-1] = FAR
    upper, lower = value.copy(), value.copy()
    for number in range(PASSES):
        order = np.s_[::-1, ::-1] if number % 2 else np.s_[:, :]
        _relax(value[order], distance[order], upper[order], lower[order])
    return distance.sum(2).astype(np.float32)


@njit("void(int32[:,:,:], int32[:,:,:], int32[:,:,:], int32[:,:,:])", cache=True, nogil=True)
def _relax(value, distance, upper, lower):
    """One raster pass in place: each pixel's path, or a cheaper one from above or from the left."""
    h, w, channels = value.shape
    for y in range(1, h - 1):
        for x in range(1, w - 1):
            for c in range(channels):
                for ny, nx in ((y - 1, x), (y, x - 1)):
                    high = max(upper[ny, nx, c], value[y, x, c])
                    low = min(lower[ny, nx, c], value[y, x, c])
                    if high - low < distance[y, x, c]:
                        distance[y, x, c] = high - low
                        upper[y, x, c] = high
                        lower[y, x, c] = low
