"""GrabCut (Rother, Kolmogorov, Blake, SIGGRAPH 2004), OpenCV's, from the map of another
estimator."""

from __future__ import annotations

import numpy as np

from preprocess import estimators, refine

VERSION = 1
PARAMETERS = {"prior": "rbd"}


def saliency(image: np.ndarray, prior: str = "rbd") -> np.ndarray:
    """GrabCut of an (H, W, 3) uint8 RGB image: float32 (h, w) in [0, 1], nearly always 0 or 1.

    Args:
        prior: estimator whose map starts the cut, and stands where the cut fails.

    Raises:
        ValueError: the prior is no estimator, or is grabcut itself.
    """
    if prior == "grabcut":
        raise ValueError("grabcut needs another estimator's map as its prior")
    return refine.grabcut(image, estimators.load(prior).working(image))
