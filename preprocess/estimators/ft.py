"""FT: frequency-tuned salient region detection (Achanta, Hemami, Estrada, Süsstrunk, CVPR 2009)."""

from __future__ import annotations

import cv2
import numpy as np

from preprocess.pixels import working_image
from preprocess.regions import unit

VERSION = 1
PARAMETERS = {"max_side": 128}


def saliency(image: np.ndarray, max_side: int = 128) -> np.ndarray:
    """Frequency-tuned saliency of an (H, W, 3) uint8 RGB image: float32 (h, w) in [0, 1] at the working size.

    The squared Lab distance of the slightly blurred image to its mean colour (equation 5).

    Args:
        max_side: of the working image, px.
    """
    lab = cv2.cvtColor(working_image(image, max_side), cv2.COLOR_RGB2LAB)  # 8-bit: L is 0..255
    mean = np.array(cv2.mean(lab)[:3], np.float32)
    blurred = cv2.GaussianBlur(lab, (5, 5), 0)  # its 5 x 5 kernel of small sigma is the paper's [1 4 6 4 1] / 16
    difference = blurred.astype(np.float32) - mean
    difference[..., 0] *= np.float32(100 / 255)
    return unit(np.einsum("hwc,hwc->hw", difference, difference))
