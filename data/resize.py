"""The one way an image or a map is resized."""

from __future__ import annotations

import cv2
import numpy as np


def resize(image: np.ndarray, width: int, height: int, out: np.ndarray | None = None) -> np.ndarray:
    """Resize an image or a map: area-averaged where it shrinks, linear where it grows.

    Args:
        image: (H, W) or (H, W, C), uint8 or float32.
        out: where the result is put, contiguous; None makes a new array.

    Returns:
        (height, width) or (height, width, C) of the same dtype and within the same range.
    """
    if out is None and image.shape[:2] == (height, width):
        return image
    shrinks = width * height < image.shape[0] * image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), dst=out, interpolation=interpolation)
