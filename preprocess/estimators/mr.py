"""MR: saliency via graph-based manifold ranking (Yang, Zhang, Lu, Ruan, Yang, CVPR 2013)."""

from dataclasses import dataclass

import numpy as np

from preprocess.estimators.regional import Regional
from preprocess.vision.cholesky import inverse
from preprocess.vision.pixels import min_max
from preprocess.vision.regions import Regions, two_ring_affinity

ALPHA = 0.99  # how far a rank spreads (section 2.1)


@dataclass(frozen=True)
class MR(Regional):
    """Unlike each of the four sides, then like the superpixels that are (section 4)."""

    name = "mr"

    @staticmethod
    def solve(parts: Regions) -> np.ndarray:
        border = parts.sides.any(0)
        ranking = ranking_matrix(two_ring_affinity(parts, np.logical_and.outer(border, border)))
        first = np.ones(len(parts.size))
        for side in (ranking @ parts.sides.T).T:
            first *= 1 - min_max(side)
        return min_max(ranking @ (first >= first.mean()))


def ranking_matrix(weight: np.ndarray) -> np.ndarray:
    """(n, n) float64 that turns queries into their ranks: (D - alpha W)^-1 (equation 3).

    Its diagonal is 0, so that a query does not rank itself.
    """
    degree = np.maximum(weight.sum(1), 1e-9)
    ranking = inverse(np.diag(degree) - ALPHA * weight)
    np.fill_diagonal(ranking, 0)
    return ranking
