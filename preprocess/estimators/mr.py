"""MR: saliency detection via graph-based manifold ranking (Yang, Zhang, Lu, Ruan, Yang, CVPR 2013)."""

from __future__ import annotations

import numpy as np

from preprocess import linear
from preprocess import regions as graph
from preprocess.regions import Regions, unit

VERSION = 1
PARAMETERS = dict(graph.PARAMETERS)
THETA = 10.0  # 1 / sigma^2 of the affinity, distances in 0..1
ALPHA = 0.99  # how far a rank spreads (section 2.1)


def saliency(image: np.ndarray, **parameters) -> np.ndarray:
    """Manifold-ranking saliency of an (H, W, 3) uint8 RGB image: float32 (h, w) in [0, 1] at the working size."""
    parts = graph.regions(image, **parameters)
    return parts.paint(solve(parts))


def solve(parts: Regions) -> np.ndarray:
    """(n,) float64 saliency in [0, 1]: unlike each of the four sides, then like what that finds (section 4)."""
    ranking = learnt_affinity(affinity(parts))
    first = np.ones(len(parts.size))
    for side in parts.sides:
        first *= 1 - unit(ranking @ side)
    return unit(ranking @ (first >= first.mean()))


def affinity(parts: Regions) -> np.ndarray:
    """(n, n) float64 weights: exp(-theta d), d the Lab distance in 0..1, on the two-ring of the graph whose border is a
    clique (section 3)."""
    border = parts.sides.any(0)
    linked = parts.adjacent | np.logical_and.outer(border, border)
    np.fill_diagonal(linked, False)
    links = graph.two_ring(linked)
    if not links.any():
        return np.zeros(links.shape)
    colour = parts.colour
    low, high = colour[links].min(), colour[links].max()
    return np.where(links, np.exp(-THETA * (colour - low) / max(high - low, 1e-9)), 0)


def learnt_affinity(weight: np.ndarray) -> np.ndarray:
    """(D - alpha W)^-1 with its diagonal at 0, so that a query does not rank itself (equation 3)."""
    degree = np.maximum(weight.sum(1), 1e-9)
    ranking = linear.inverse(np.diag(degree) - ALPHA * weight)
    np.fill_diagonal(ranking, 0)
    return ranking
