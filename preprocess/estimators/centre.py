"""A centred Gaussian, whatever the image: the baseline that every method must beat."""

from dataclasses import dataclass

import numpy as np

from preprocess.estimators.base import Estimator

SIDE = 64


@dataclass(frozen=True)
class Centre(Estimator):
    """Float32 (64, 64) in (0, 1], the whole image squashed.

    Args:
        sigma: of the Gaussian, as a share of each side.
    """

    name = "centre"
    sigma: float = 0.2

    def working(self, image: np.ndarray) -> np.ndarray:
        offset = (np.arange(SIDE) + 0.5) / SIDE - 0.5
        profile = np.exp(-(offset**2) / (2 * self.sigma**2))
        return np.outer(profile, profile).astype(np.float32)
