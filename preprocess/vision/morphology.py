"""Grey-scale reconstruction (Vincent, IEEE TIP 1993): a fifth of the time of scikit-image's.

MB+ has 4 times decoding, and scikit-image's two calls alone take more than twice.
"""

import cv2
import numpy as np

from data.kernels import njit


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
    """Reconstruction by dilation, 8-connected.

    Args:
        marker, mask: (h, w) uint8; the marker is taken as at most the mask.

    Returns:
        (h, w) uint8, the greatest image that grows from the marker and stays under the mask.
    """
    # a border of zeros, which nothing grows into: flat and reversed, it is the inverse raster order
    out, mask = (
        cv2.copyMakeBorder(plane, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
        for plane in (np.minimum(marker, mask), mask)
    )
    width = out.shape[1]
    flat, limit = out.ravel(), mask.ravel()
    while _grow(flat, limit, width) | _grow(flat[::-1], limit[::-1], width):
        pass
    return out[1:-1, 1:-1]


@njit("boolean(uint8[:], uint8[:], int64)", cache=True, nogil=True)
def _grow(out, mask, width):
    """One pass in raster order over rows of `width` px, in place; whether anything grew."""
    grew = False
    for i in range(width + 1, len(out)):
        above = max(out[i - width - 1], out[i - width], out[i - width + 1])
        level = min(max(above, out[i - 1]), mask[i])
        if level > out[i]:
            out[i] = level
            grew = True
    return grew
