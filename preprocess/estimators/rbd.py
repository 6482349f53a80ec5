"""RBD: saliency optimisation from robust background detection (Zhu, Liang, Wei, Sun, CVPR 2014)."""

from __future__ import annotations

import numpy as np
from numba import njit

from preprocess.vision import ldl as linear
from preprocess.vision import regions as graph
from preprocess.vision.regions import CUT, Regions, gaussian, unit

VERSION = 1
PARAMETERS = {
    **graph.PARAMETERS,
    "iterations": 6,
}  # of SLIC; ten take 0.6 ms more and gain .001 to .003
SIGMA_CONNECTIVITY = 1.0  # of the background probability, section 4.1
# of the weighted contrast; positions are in 0..1 (the authors' code; the paper prints 0.25)
SIGMA_SPACE = 0.4
CERTAIN = 3.0  # boundary connectivity beyond which a superpixel is held to be background
CERTAIN_WEIGHT = 1000.0
BACKGROUND = 5.0  # weight of the background term against the foreground term
MU = 0.1  # smoothness between neighbours whatever their colours


def saliency(image: np.ndarray, **parameters) -> np.ndarray:
    """RBD's optimised saliency of an (H, W, 3) uint8 RGB image: float32 (h, w) in [0, 1] at the
    working size."""
    parts = graph.regions(image, **parameters)
    return parts.paint(solve(parts))


def solve(parts: Regions) -> np.ndarray:
    """(n,) float64 saliency in [0, 1] of each superpixel (sections 3 to 5)."""
    colour = parts.colour
    clique = np.logical_and.outer(parts.border, parts.border)
    scale = graph.scales(parts)
    connectivity = boundary_connectivity(colour, parts.adjacent | clique, parts.border, scale)
    probability = 1 - np.exp(-(connectivity**2) / (2 * SIGMA_CONNECTIVITY**2))
    weight = np.where(connectivity > CERTAIN, CERTAIN_WEIGHT, probability)
    contrast = weighted_contrast(colour, parts.space, probability)
    foreground = above_otsu(unit(contrast))
    links = parts.near | clique
    np.fill_diagonal(links, False)
    affinity = MU * parts.adjacent
    affinity[links] += gaussian(colour[links], scale.neighbour)
    return unit(optimise(affinity, foreground, BACKGROUND * weight))


def boundary_connectivity(
    colour: np.ndarray, linked: np.ndarray, border: np.ndarray, scale: graph.Scales
) -> np.ndarray:
    """How strongly each superpixel's region touches the image border: length along it over the root
    of its area.

    Args:
        colour: (n, n) Lab distances; linked: (n, n) bool graph; border: (n,) bool; scale: edge clip
            and sigma.

    Returns:
        (n,) float64 >= 0 (section 3.1, equations 3 to 5).
    """
    edge = np.where(linked, np.maximum(colour - scale.clip, 0), np.inf)
    same = gaussian(graph.shortest_paths(edge, CUT * scale.geodesic), scale.geodesic)
    return same[:, border].sum(1, dtype=np.float64) / np.sqrt(same.sum(1, dtype=np.float64))


@njit("float64[::1](float64[:, ::1], float64[:, ::1], float64[::1])", cache=True, nogil=True)
def weighted_contrast(colour, space, probability):
    """(n,) float64 contrast to what is likely background, sum_j colour_ij gaussian(space_ij)
    probability_j.

    Equation 7 of section 4.1, from (n, n) symmetric Lab distances and positions' distances; one
    exponential a pair.
    """
    n = len(probability)
    out = np.zeros(n)
    for i in range(n):
        for j in range(i):
            if space[i, j] <= CUT * SIGMA_SPACE:
                pair = colour[i, j] * np.exp(space[i, j] ** 2 * (-0.5 / SIGMA_SPACE**2))
                out[i] += pair * probability[j]
                out[j] += pair * probability[i]
    return out


def above_otsu(values: np.ndarray) -> np.ndarray:
    """Zero the values in [0, 1] below their Otsu threshold (256 bins)."""
    counts = np.bincount(np.rint(values * 255).astype(np.int64), minlength=256)
    return np.where(values * 255 > otsu(counts), values, 0)


def otsu(counts: np.ndarray) -> float:
    """Otsu's threshold of (256,) counts, in 0..255: the middle of a plateau; -1 where all lie in
    one bin."""
    below, mass = np.cumsum(counts), np.cumsum(counts * np.arange(256))
    above = below[-1] - below
    valid = (below > 0) & (above > below[-1] * 1e-12)
    if not valid.any():
        return -1.0
    b, a = np.where(valid, below, 1), np.where(valid, above, 1)
    between = np.where(valid, b * a * (mass / b - (mass[-1] - mass) / a) ** 2, -1.0)
    return float(np.flatnonzero(between >= between.max() * (1 - 1e-12)).mean())


def optimise(affinity: np.ndarray, foreground: np.ndarray, background: np.ndarray) -> np.ndarray:
    """The minimiser s of sum bg s^2 + sum fg (s - 1)^2 + sum_{i<j} w_ij (s_i - s_j)^2 (section 4.2,
    equation 9).

    Args:
        affinity: (n, n) symmetric w >= 0, zero diagonal; foreground, background: (n,) weights >= 0.
    """
    system = -affinity
    system.flat[:: len(system) + 1] += (
        affinity.sum(1) + background + foreground + 1e-9
    )  # a flat image has no terms
    return linear.solve(system, foreground)
