"""SF: saliency filters (Perazzi, Krähenbühl, Pritch, Hornung, CVPR 2012), on superpixels without
the upsampling."""

from __future__ import annotations

import numpy as np

from preprocess.vision import regions as graph
from preprocess.vision.regions import Regions, gaussian, unit

VERSION = 1
PARAMETERS = dict(graph.PARAMETERS)
SIGMA_SPACE = 0.25  # of the uniqueness; positions are in 0..1
SIGMA_COLOUR = 20.0  # of the distribution, Lab units
CONTRAST = (
    5.0  # k of equation 7. NOTE: the paper has 6, which is worse here on every metric but MAE
)


def saliency(image: np.ndarray, **parameters) -> np.ndarray:
    """Saliency filters of an (H, W, 3) uint8 RGB image: float32 (h, w) in [0, 1] at the working
    size."""
    parts = graph.regions(image, **parameters)
    return parts.paint(solve(parts))


def solve(parts: Regions) -> np.ndarray:
    """(n,) float64 saliency in [0, 1]: rare and compact colours (equations 1, 3 and 7)."""
    colour, space = parts.colour, parts.space
    uniqueness = (colour * gaussian(space, SIGMA_SPACE)).sum(
        1
    )  # NOTE: the paper squares and normalises; worse
    weight = _rows(gaussian(colour, SIGMA_COLOUR))
    mean = weight @ parts.position
    distribution = weight @ (parts.position**2).sum(1) - (mean**2).sum(1)
    return unit(unit(uniqueness) * np.exp(-CONTRAST * unit(distribution)))


def _rows(weight: np.ndarray) -> np.ndarray:
    """Each row to a sum of 1; the diagonal is never 0."""
    return weight / weight.sum(1, keepdims=True)
