"""MBD: minimum barrier salient object detection, MB+ (Zhang, Sclaroff, Lin, Shen, Price, Mech, ICCV
2015)."""

from __future__ import annotations

import cv2
import numpy as np
from numba import njit

from preprocess.vision.barrier import minimum_barrier
from preprocess.vision.frames import inner_box
from preprocess.vision.morphology import opening_closing
from preprocess.vision.pixels import working_image
from preprocess.vision.regions import unit

VERSION = 1
PARAMETERS = {"max_side": 128, "frame": True}
STRIP = 0.1  # of each side: the border strips that the backgroundness is told from
RIDGE = 50.0  # added to a strip's colour variances, in grey levels squared
SMOOTHING = (
    50 / 300
)  # of the longer side, times the root of the mean saliency: the reconstruction's square
SLOPE = 10.0  # of the final sigmoid


def saliency(image: np.ndarray, max_side: int = 128, frame: bool = True) -> np.ndarray:
    """MB+ saliency of an (H, W, 3) uint8 RGB image: float32 (h, w) in [0, 1] at the working size.

    Args:
        max_side: of the working image, px.  frame: leave out an artificial frame.
    """
    image = working_image(image, max_side)
    height, width = image.shape[:2]
    top, bottom, left, right = (
        inner_box(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)) if frame else (0, height, 0, width)
    )
    inner = solve(np.ascontiguousarray(image[top:bottom, left:right]))
    if inner.shape == (height, width):
        return inner
    saliency_map = np.zeros((height, width), np.float32)
    saliency_map[top:bottom, left:right] = inner
    return saliency_map


def solve(image: np.ndarray) -> np.ndarray:
    """Float32 (h, w) in [0, 1]: barrier distance plus backgroundness, centred, smoothed, stretched
    (sections 3, 4)."""
    lab = cv2.medianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2LAB), 5)
    combined = unit(unit(minimum_barrier(lab)) + unit(backgroundness(image)))
    return stretch(smooth(unit(combined * centre(*image.shape[:2]))))


def backgroundness(image: np.ndarray) -> np.ndarray:
    """Float32 (h, w): how unlike the border's colours, the most unlike of the four strips left out
    (section 4.1).

    Args:
        image: (h, w, 3) uint8 RGB.
    """
    height, width = image.shape[:2]
    rows, columns = max(1, round(STRIP * height)), max(1, round(STRIP * width))
    whitening, means = np.empty((4, 3, 3), np.float32), np.empty((4, 3), np.float32)
    for number, strip in enumerate(
        (image[:rows], image[-rows:], image[:, :columns], image[:, -columns:])
    ):
        colours = strip.reshape(-1, 3).astype(np.float64)
        mean = colours.mean(0)
        covariance = (colours - mean).T @ (colours - mean) / max(len(colours) - 1, 1)
        values, vectors = np.linalg.eigh(covariance + RIDGE * np.eye(3))
        whitening[number] = vectors / np.sqrt(values)
        means[number] = mean
    distances = _whitened_distances(np.ascontiguousarray(image), means, whitening)
    distances = np.stack([unit(plane) for plane in distances])
    return distances.sum(0) - distances.max(0)


@njit(
    "float32[:, :, ::1](uint8[:, :, ::1], float32[:, ::1], float32[:, :, ::1])",
    cache=True,
    nogil=True,
)
def _whitened_distances(image, means, whitening):
    """(strips, h, w) L1 norm of each pixel's whitened difference from each strip's mean colour."""
    h, w = image.shape[0], image.shape[1]
    out = np.empty((means.shape[0], h, w), np.float32)
    for s in range(means.shape[0]):
        matrix = whitening[s]
        for y in range(h):
            for x in range(w):
                r, g, b = (
                    image[y, x, 0] - means[s, 0],
                    image[y, x, 1] - means[s, 1],
                    image[y, x, 2] - means[s, 2],
                )
                total = np.float32(0)
                for c in range(3):
                    total += abs(r * matrix[0, c] + g * matrix[1, c] + b * matrix[2, c])
                out[s, y, x] = total
    return out


def centre(height: int, width: int) -> np.ndarray:
    """Float32 (h, w): 1 at the centre, falling linearly to 0 in the farthest corner."""
    y, x = np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    radius = np.sqrt(y[:, None] ** 2 + x[None, :] ** 2)
    return (1 - radius / max(radius.max(), 1e-9)).astype(np.float32)


def smooth(saliency_map: np.ndarray) -> np.ndarray:
    """Opening and closing by reconstruction with a square that grows with the salient area (section
    4.2)."""
    side = SMOOTHING * max(saliency_map.shape) * float(saliency_map.mean()) ** 0.5
    levels = np.rint(saliency_map * 255).astype(np.uint8)
    return opening_closing(levels, max(3, int(side))).astype(np.float32) / np.float32(255)


def stretch(saliency_map: np.ndarray) -> np.ndarray:
    """A sigmoid around the middle of the mean of the brighter half and the mean of the darker half
    of the values."""
    bright = saliency_map >= saliency_map.max() / 2
    if bright.all():
        return np.zeros_like(saliency_map)
    middle = np.float32(0.5 * (saliency_map[bright].mean() + saliency_map[~bright].mean()))
    return unit(1 / (1 + np.exp(np.float32(SLOPE) * (middle - saliency_map))))
