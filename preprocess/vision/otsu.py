"""Otsu's threshold of weighted counts; OpenCV's takes images only, scikit-image's no plateaus."""

import numpy as np


def otsu(counts: np.ndarray) -> float:
    """Otsu's threshold (IEEE Trans. SMC 1979) of (256,) counts, in 0..255.

    The middle of a plateau of thresholds; -1 where all counts lie in one bin.
    """
    below, mass = np.cumsum(counts), np.cumsum(counts * np.arange(256))
    above = below[-1] - below
    valid = (below > 0) & (above > below[-1] * 1e-12)
    if not valid.any():
        return -1.0
    b, a = np.where(valid, below, 1), np.where(valid, above, 1)
    between = np.where(valid, b * a * (mass / b - (mass[-1] - mass) / a) ** 2, -1.0)
    return float(np.flatnonzero(between >= between.max() * (1 - 1e-12)).mean())
