"""Pixels for the estimators: the working size, Lab planes, and ranges, the same for all."""

import cv2
import numpy as np


def min_max(values: np.ndarray) -> np.ndarray:
    """Min-max normalise to [0, 1]; all zero where the values do not differ."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high - low > 1e-12 else np.zeros_like(values)


def sigmoid(values: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-values))."""
    return 1 / (1 + np.exp(-values))


def otsu(values: np.ndarray, size: np.ndarray | None = None) -> float:
    """Otsu's threshold (IEEE Trans. SMC 1979) of values in [0, 1], in 256 levels, in 0..255.

    OpenCV's takes images only, and scikit-image's no plateaus of thresholds, whose middle this is.
    -1 where all values lie in one bin.

    Args:
        size: weights of the values.
    """
    counts = np.bincount(np.rint(values * 255).astype(np.int64), size, 256)
    below, mass = np.cumsum(counts), np.cumsum(counts * np.arange(256))
    above = below[-1] - below
    valid = (below > 0) & (above > below[-1] * 1e-12)
    if not valid.any():
        return -1.0
    b, a = np.where(valid, below, 1), np.where(valid, above, 1)
    between = np.where(valid, b * a * (mass / b - (mass[-1] - mass) / a) ** 2, -1.0)
    return float(np.flatnonzero(between >= between.max() * (1 - 1e-12)).mean())


def working_image(image: np.ndarray, max_side: int) -> np.ndarray:
    """Shrink an (H, W, 3) uint8 image so that no side exceeds `max_side` px."""
    height, width = image.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1:
        return image
    return shrink(image, max(1, round(width * scale)), max(1, round(height * scale)))


def shrink(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize an image of uint8, smoothing as it shrinks.

    Bilinear halvings, each the mean of 2 x 2 pixels, and a bilinear rest of at most a half: what
    INTER_AREA gives, but five to ten times as fast, and INTER_AREA took longer than decoding.
    """
    while image.shape[0] > 2 * height or image.shape[1] > 2 * width:
        size = _halved(image.shape[1], width), _halved(image.shape[0], height)
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def _halved(length: int, least: int) -> int:
    return max(least, (length + 1) // 2) if length > 2 * least else length


def lab_planes(image: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 RGB to (3, h, w) float32 Lab with L in 0..100, one plane a channel."""
    # from 8 bits: half the time of floats, and the maps score the same
    planes = np.stack(cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2LAB))).astype(np.float32)
    planes[0] *= np.float32(100 / 255)
    planes[1:] -= 128
    return planes
