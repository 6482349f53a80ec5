"""MC: saliency detection via absorbing Markov chain (Jiang, Zhang, Lu, Yang, Yang, ICCV 2013)."""

from dataclasses import dataclass

import numpy as np

from preprocess.estimators.regional import Regional
from preprocess.vision.cholesky import solve as solve_system
from preprocess.vision.pixels import min_max
from preprocess.vision.regions import Regions, two_ring_affinity

FLOOR = 1e-5  # of a link's weight
LONELY = 1.1  # a node whose weights, its own 1 included, sum to less is an outlier
FRAMED = 13.0  # border-to-inside weight up to which the border ring is taken for a frame
CLEAR = 2.0  # histogram score from which the times are weighted by the equilibrium distribution
CONNECTED = 0.3  # an outlier beside a superpixel above this is salient


@dataclass(frozen=True)
class MC(Regional):
    """The expected time of a random walk to its absorption at the image border (sections 3, 4)."""

    name = "mc"

    @staticmethod
    def solve(parts: Regions) -> np.ndarray:
        weight = affinity(parts)
        border = parts.sides.any(0)
        kept = weight.sum(1) >= LONELY
        inner = parts.adjacent[border].any(0) & ~border
        framed = inner.any() and weight[np.ix_(border, ~border)].sum() <= FRAMED
        if framed:  # the border ring is a frame: the next ring absorbs
            kept &= ~border
        absorbing = inner if framed else border
        saliency = np.zeros(len(kept))
        if not (absorbing & kept).any():
            return saliency
        saliency[kept] = absorbed_time(weight[np.ix_(kept, kept)], absorbing[kept])
        outliers = ~kept & ~border if framed else ~kept
        near = np.where(parts.adjacent, saliency, 0).max(1)
        saliency[outliers] = near[outliers] > CONNECTED
        return saliency


def affinity(parts: Regions) -> np.ndarray:
    """(n, n) float64 weights on the two-ring, 1 on the diagonal; opposite sides touch."""
    top, bottom, left, right = parts.sides
    opposite = np.logical_and.outer(top, bottom) | np.logical_and.outer(left, right)
    weight = two_ring_affinity(parts, opposite | opposite.T, FLOOR)
    np.fill_diagonal(weight, 1)
    return weight


def absorbed_time(weight: np.ndarray, absorbing: np.ndarray) -> np.ndarray:
    """Expected steps of a walk until it meets a duplicate of an absorbing node (equation 4).

    Args:
        weight: (m, m) float64.
        absorbing: (m,) bool.

    Returns:
        (m,) float64, min-max normalised; weighted by the equilibrium distribution where the times
        are two clear groups (section 4.2).
    """
    total = weight.sum(1)
    leave = total + weight[:, absorbing].sum(1)
    scarcity = total.sum() / total  # one over the equilibrium
    ends = np.stack([np.ones(len(weight)), scarcity / scarcity.sum()], 1)
    # (I - P) y = b with P = diag(leave)^-1 W, multiplied by diag(leave): positive definite
    plain, weighted = solve_system(np.diag(leave) - weight, leave[:, None] * ends).T
    plain = min_max(plain)
    counts = np.histogram(plain, 10, (0, 1))[0] / len(plain)
    bins = np.arange(1, 11)
    clear = (counts * np.minimum(bins, 11 - bins)).sum() >= CLEAR
    return min_max(weighted) if clear else plain
