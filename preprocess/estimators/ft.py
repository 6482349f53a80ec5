"""FT: frequency-tuned salient region detection (Achanta, Hemami, Estrada, Süsstrunk, CVPR 2009)."""

from __future__ import annotations

import cv2
import numpy as np
from numba import njit

from preprocess.vision.pixels import working_image
from preprocess.vision.regions import unit

VERSION = 1
PARAMETERS = {"max_side": 128}


def saliency(image: np.ndarray, max_side: int = 128) -> np.ndarray:
    """Frequency-tuned saliency of an (H, W, 3) uint8 RGB image: float32 (h, w) in [0, 1] at the
    working size.

    The squared Lab distance of the slightly blurred image to its mean colour (equation 5).

    Args:
        max_side: of the working image, px.
    """
    lab = cv2.cvtColor(working_image(image, max_side), cv2.COLOR_RGB2LAB)  # 8-bit: L is 0..255
    blurred = cv2.GaussianBlur(
        lab, (5, 5), 0
    )  # its 5 x 5 kernel of small sigma is the paper's [1 4 6 4 1] / 16
    return unit(_squared_distance(blurred, *cv2.mean(lab)[:3]))


@njit("float32[:, ::1](uint8[:, :, ::1], float64, float64, float64)", cache=True, nogil=True)
def _squared_distance(lab, lightness, a, b):
    """(h, w) squared Lab distance to a colour; L is in 0..255 in both."""
    out = np.empty(lab.shape[:2], np.float32)
    for y in range(lab.shape[0]):
        for x in range(lab.shape[1]):
            dl, da, db = (
                (lab[y, x, 0] - lightness) * (100 / 255),
                lab[y, x, 1] - a,
                lab[y, x, 2] - b,
            )
            out[y, x] = dl * dl + da * da + db * db
    return out
