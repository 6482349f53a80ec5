"""Fine-grained saliency (Montabone and Soto, Image and Vision Computing 2010), OpenCV's: centre and
surround."""

from __future__ import annotations

import cv2
import numpy as np

from preprocess.vision.pixels import working_image
from preprocess.vision.regions import unit

VERSION = 1
PARAMETERS = {"max_side": 256}


def saliency(image: np.ndarray, max_side: int = 256) -> np.ndarray:
    """Fine-grained saliency of an (H, W, 3) uint8 RGB image: float32 (h, w) in [0, 1] at the
    working size.

    Args:
        max_side: of the working image, px.
    """
    image = cv2.cvtColor(working_image(image, max_side), cv2.COLOR_RGB2BGR)
    found, saliency_map = cv2.saliency.StaticSaliencyFineGrained_create().computeSaliency(image)
    if not found:
        return np.zeros(image.shape[:2], np.float32)
    return unit(np.nan_to_num(saliency_map).astype(np.float32))
