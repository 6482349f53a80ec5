"""MC: saliency detection via absorbing Markov chain (Jiang, Zhang, Lu, Yang, Yang, ICCV 2013)."""

from __future__ import annotations

import numpy as np

from preprocess.vision import ldl as linear
from preprocess.vision import regions as graph
from preprocess.vision.regions import Regions, unit

VERSION = 1
PARAMETERS = dict(graph.PARAMETERS)
THETA = 10.0  # 1 / sigma^2 of the affinity, distances in 0..1
FLOOR = 1e-5  # of a link's weight
LONELY = 1.1  # a node whose weights, its own 1 included, sum to less is an outlier
FRAMED = 13.0  # border-to-inside weight up to which the border ring is taken for a frame
CLEAR = 2.0  # histogram score from which the times are weighted by the equilibrium distribution


def saliency(image: np.ndarray, **parameters) -> np.ndarray:
    """Absorbed-time saliency of an (H, W, 3) uint8 RGB image: float32 (h, w) in [0, 1] at the
    working size."""
    parts = graph.regions(image, **parameters)
    return parts.paint(solve(parts))


def solve(parts: Regions) -> np.ndarray:
    """(n,) float64 saliency in [0, 1]: the expected time to absorption at the image border
    (sections 3 and 4)."""
    weight = affinity(parts)
    border = parts.sides.any(0)
    kept = weight.sum(1) >= LONELY
    inner = parts.adjacent[border].any(0) & ~border
    absorbing = border
    if inner.any() and weight[np.ix_(border, ~border)].sum() <= FRAMED:
        kept &= ~border  # the border ring is a frame: the next ring absorbs
        absorbing = inner
    nodes = np.flatnonzero(kept)
    if not (absorbing & kept).any():
        return np.zeros(len(kept))
    time = absorbed_time(weight[np.ix_(nodes, nodes)], absorbing[nodes])
    result = np.zeros(len(kept))
    result[nodes] = time
    outliers = ~kept & ~(border if absorbing is inner else np.zeros_like(border))
    near = np.where(parts.adjacent, result, 0).max(1)
    result[outliers] = near[outliers] > 0.3
    return result


def affinity(parts: Regions) -> np.ndarray:
    """(n, n) float64 weights exp(-theta d) + floor on the two-ring, 1 on the diagonal; opposite
    sides touch."""
    top, bottom, left, right = parts.sides
    linked = parts.adjacent.copy()
    for a, b in (top, bottom), (left, right):
        linked |= np.logical_and.outer(a, b) | np.logical_and.outer(b, a)
    np.fill_diagonal(linked, False)
    links = graph.two_ring(linked)
    if not links.any():
        return np.eye(len(links))
    distance = parts.colour[links]
    low, high = distance.min(), distance.max()
    weight = np.zeros(links.shape)
    weight[links] = np.exp(-THETA * (distance - low) / max(high - low, 1e-9)) + FLOOR
    np.fill_diagonal(weight, 1)
    return weight


def absorbed_time(weight: np.ndarray, absorbing: np.ndarray) -> np.ndarray:
    """(m,) expected steps of a walk on (m, m) weights until it meets a duplicate of an absorbing
    node, min-max normalised (equation 4), and weighted by the equilibrium where the times are two
    clear groups (section 4.2)."""
    total = weight.sum(1)
    leave = total + weight[:, absorbing].sum(1)
    # (I - P) y = b with P = diag(leave)^-1 W, multiplied by diag(leave): symmetric and positive
    # definite
    equilibrium = total / total.sum()
    ends = np.stack([np.ones(len(weight)), unit_sum(1 / equilibrium)], 1)
    times = linear.solve(np.diag(leave) - weight, leave[:, None] * ends)
    plain = unit(times[:, 0])
    counts = np.histogram(plain, 10, (0, 1))[0] / len(plain)
    bins = np.arange(1, 11)
    return unit(times[:, 1]) if (counts * np.minimum(bins, 11 - bins)).sum() >= CLEAR else plain


def unit_sum(values: np.ndarray) -> np.ndarray:
    return values / values.sum()
