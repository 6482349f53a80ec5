"""A centred Gaussian: knows nothing of the image; the baseline that every method must beat."""

from __future__ import annotations

import numpy as np

VERSION = 1
PARAMETERS = {"sigma": 0.2}
SIDE = 64


def saliency(image: np.ndarray, sigma: float = 0.2) -> np.ndarray:
    """Float32 (64, 64) in (0, 1], the whole image squashed, whatever the (H, W, 3) uint8 image.

    Args:
        sigma: of the Gaussian, as a share of each side.
    """
    offset = (np.arange(SIDE) + 0.5) / SIDE - 0.5
    profile = np.exp(-(offset**2) / (2 * sigma * sigma))
    return np.outer(profile, profile).astype(np.float32)
