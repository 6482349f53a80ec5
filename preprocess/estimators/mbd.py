"""MBD: minimum barrier salient object detection, MB+ (Zhang et al., ICCV 2015)."""

from dataclasses import dataclass

import cv2
import numpy as np

from preprocess.estimators.base import Estimator
from preprocess.vision.barrier import minimum_barrier
from preprocess.vision.frames import inner_box, unframed
from preprocess.vision.morphology import opening_closing
from preprocess.vision.pixels import min_max, sigmoid, working_image

STRIP = 0.1  # of each side: the border strips whose colours are the background's
RIDGE = 50.0  # added to a strip's colour variances, in grey levels squared
# of the longer side, times the root of the mean saliency: side of the reconstruction's square
SMOOTHING = 50 / 300
SLOPE = 10.0  # of the final sigmoid


@dataclass(frozen=True)
class MBD(Estimator):
    """Minimum barrier distance to the image border, and unlikeness to the border's colours.

    Args:
        max_side: of the working image, px.
        frame: leave out an artificial frame.
    """

    name = "mbd"
    version = 2
    max_side: int = 128
    frame: bool = True

    def working(self, image: np.ndarray) -> np.ndarray:
        image = working_image(image, self.max_side)
        box = inner_box(image, self.frame)
        return unframed(solve(image[box]), box, image.shape[:2])


def solve(image: np.ndarray) -> np.ndarray:
    """MB+ of an (h, w, 3) uint8 RGB image without a frame: float32 (h, w) in [0, 1].

    Barrier distance plus backgroundness, centred, smoothed, stretched (sections 3 and 4).
    """
    lab = cv2.medianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), 5)
    combined = min_max(min_max(minimum_barrier(lab)) + min_max(backgroundness(image)))
    return stretch(smooth(min_max(combined * centre(*image.shape[:2]))))


def backgroundness(image: np.ndarray) -> np.ndarray:
    """How unlike the border's colours each pixel is, the most unlike of four strips left out.

    Section 4.1: the L1 norm of the whitened difference from a strip's mean colour.

    Args:
        image: (h, w, 3) uint8 RGB.

    Returns:
        float32 (h, w).
    """
    height, width = image.shape[:2]
    rows, columns = max(1, round(STRIP * height)), max(1, round(STRIP * width))
    pixels = image.astype(np.float32)
    unlike = []
    for strip in (image[:rows], image[-rows:], image[:, :columns], image[:, -columns:]):
        colours = strip.reshape(-1, 3).astype(np.float64)
        mean = colours.mean(0)
        covariance = (colours - mean).T @ (colours - mean) / max(len(colours) - 1, 1)
        values, vectors = np.linalg.eigh(covariance + RIDGE * np.eye(3))
        whitening = (vectors / np.sqrt(values)).T
        affine = np.concatenate([whitening, -(whitening @ mean)[:, None]], 1)
        distance = np.abs(cv2.transform(pixels, affine)) @ np.ones(3, np.float32)
        unlike.append(min_max(distance))
    return np.sum(unlike, 0) - np.max(unlike, 0)


def centre(height: int, width: int) -> np.ndarray:
    """Float32 (h, w): 1 at the centre, falling linearly to 0 in the farthest corner."""
    y, x = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    radius = np.hypot(y[:, None], x[None, :])
    return (1 - radius / max(radius.max(), 1e-9)).astype(np.float32)


def smooth(saliency: np.ndarray) -> np.ndarray:
    """Opening and closing by reconstruction with a square that grows with the salient area.

    Section 4.2.
    """
    side = SMOOTHING * max(saliency.shape) * float(saliency.mean()) ** 0.5
    levels = np.rint(saliency * 255).astype(np.uint8)
    return opening_closing(levels, max(3, int(side))).astype(np.float32) / np.float32(255)


def stretch(saliency: np.ndarray) -> np.ndarray:
    """A sigmoid around the middle between the mean of the brighter and of the darker half."""
    bright = saliency >= saliency.max() / 2
    if bright.all():
        return np.zeros_like(saliency)
    middle = np.float32(0.5 * (saliency[bright].mean() + saliency[~bright].mean()))
    return min_max(sigmoid(np.float32(SLOPE) * (saliency - middle)))
