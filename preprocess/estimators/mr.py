"""MR: saliency detection via graph-based manifold ranking (Yang, Zhang, Lu, Ruan, Yang, CVPR
2013)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from preprocess.vision import ldl as linear
from preprocess.vision import regions as graph
from preprocess.vision.regions import Regions, unit

VERSION = 1
PARAMETERS = dict(graph.PARAMETERS)
THETA = 10.0  # 1 / sigma^2 of the affinity, distances in 0..1
ALPHA = 0.99  # how far a rank spreads (section 2.1)


def saliency(image: np.ndarray, **parameters) -> np.ndarray:
    """Manifold-ranking saliency of an (H, W, 3) uint8 RGB image: float32 (h, w) in [0, 1] at the
    working size."""
    parts = graph.regions(image, **parameters)
    return parts.paint(solve(parts))


def solve(parts: Regions) -> np.ndarray:
    """(n,) float64 saliency in [0, 1]: unlike each of the four sides, then like what that finds
    (section 4)."""
    rank = ranking(affinity(parts))
    first = np.ones(len(parts.size))
    for side in rank(parts.sides.T.astype(np.float64)).T:
        first *= 1 - unit(side)
    return unit(rank((first >= first.mean()).astype(np.float64)[:, None])[:, 0])


def affinity(parts: Regions) -> np.ndarray:
    """(n, n) float64 weights: exp(-theta d), d the Lab distance in 0..1, on the two-ring of the
    graph whose border is a clique (section 3)."""
    border = parts.sides.any(0)
    linked = parts.adjacent | np.logical_and.outer(border, border)
    np.fill_diagonal(linked, False)
    links = graph.two_ring(linked)
    if not links.any():
        return np.zeros(links.shape)
    distance = parts.colour[links]
    low, high = distance.min(), distance.max()
    weight = np.zeros(links.shape)
    weight[links] = np.exp(-THETA * (distance - low) / max(high - low, 1e-9))
    return weight


def ranking(weight: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Of (n, n) weights: (n, k) float64 queries to their ranks, (D - alpha W)^-1 times them
    (equation 3).

    The learnt affinity's diagonal is 0, so that a query does not rank itself.
    """
    degree = np.maximum(weight.sum(1), 1e-9)
    inverse = linear.Inverse.of(np.diag(degree) - ALPHA * weight)
    own = inverse.diagonal()[:, None]
    return lambda queries: inverse @ queries - own * queries
