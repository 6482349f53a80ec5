"""GrabCut (Rother, Kolmogorov, Blake, SIGGRAPH 2004), OpenCV's, from another method's map."""

from dataclasses import dataclass

import numpy as np

from preprocess import estimators, refine
from preprocess.estimators.base import Estimator

PRIORS = ("fusion", "gs", "mbd", "mc", "mr", "rbd")


@dataclass(frozen=True)
class GrabCut(Estimator):
    """A map that is nearly always 0 or 1.

    Args:
        prior: method whose map starts the cut, and stands where the cut fails.
    """

    name = "grabcut"
    version = 2
    prior: str = "rbd"

    def __post_init__(self):
        if self.prior not in PRIORS:
            raise ValueError(f"grabcut takes one of {', '.join(PRIORS)} as its prior")

    def working(self, image: np.ndarray) -> np.ndarray:
        return refine.grabcut(image, estimators.create(self.prior).working(image))
