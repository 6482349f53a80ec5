"""RBD: saliency optimisation from robust background detection (Zhu, Liang, Wei, Sun, CVPR 2014)."""

from dataclasses import dataclass

import numpy as np

from preprocess.estimators.regional import Regional
from preprocess.vision.cholesky import solve as solve_system
from preprocess.vision.pixels import min_max, otsu
from preprocess.vision.regions import CUT, Regions, Scales, gaussian, scales, shortest_paths

SIGMA_CONNECTIVITY = 1.0  # of the background probability, section 4.1
# of the weighted contrast; positions are in 0..1 (the authors' code; the paper prints 0.25)
SIGMA_SPACE = 0.4
CERTAIN = 3.0  # boundary connectivity beyond which a superpixel is held to be background
CERTAIN_WEIGHT = 1000.0
BACKGROUND = 5.0  # weight of the background term against the foreground term
MU = 0.1  # smoothness between neighbours whatever their colours


@dataclass(frozen=True)
class RBD(Regional):
    """Colour contrast to what touches the image border as background does, made smooth."""

    name = "rbd"
    iterations: int = 6  # of SLIC; ten take 0.6 ms more and gain .001 to .003

    @staticmethod
    def solve(parts: Regions) -> np.ndarray:
        colour, scale = parts.colour, scales(parts)
        linked = parts.adjacent | parts.clique
        connectivity = boundary_connectivity(colour, linked, parts.border, scale)
        probability = 1 - np.exp(-(connectivity**2) / (2 * SIGMA_CONNECTIVITY**2))
        weight = np.where(connectivity > CERTAIN, CERTAIN_WEIGHT, probability)
        foreground = above_otsu(min_max(weighted_contrast(colour, parts.space, probability)))
        links = parts.near | parts.clique
        np.fill_diagonal(links, False)
        affinity = MU * parts.adjacent
        affinity[links] += gaussian(colour[links], scale.neighbour)
        return min_max(optimise(affinity, foreground, BACKGROUND * weight))


def boundary_connectivity(
    colour: np.ndarray, linked: np.ndarray, border: np.ndarray, scale: Scales
) -> np.ndarray:
    """The length of a superpixel's region along the image border over the root of its area.

    Args:
        colour: (n, n) Lab distances.
        linked: (n, n) bool graph.
        border: (n,) bool.
        scale: edge clip and sigma.

    Returns:
        (n,) float64 >= 0 (section 3.1, equations 3 to 5).
    """
    edge = np.where(linked, np.maximum(colour - scale.clip, 0), np.inf)
    same = gaussian(shortest_paths(edge, CUT * scale.geodesic), scale.geodesic)
    return same[:, border].sum(1, dtype=np.float64) / np.sqrt(same.sum(1, dtype=np.float64))


def weighted_contrast(colour: np.ndarray, space: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """(n,) float64 contrast to what is likely background (equation 7, section 4.1), from (n, n)
    symmetric distances of Lab colours and of positions."""
    return (colour * gaussian(space, SIGMA_SPACE)) @ probability


def above_otsu(values: np.ndarray) -> np.ndarray:
    """Zero the values in [0, 1] below their Otsu threshold (256 bins)."""
    return np.where(values * 255 > otsu(values), values, 0)


def optimise(affinity: np.ndarray, foreground: np.ndarray, background: np.ndarray) -> np.ndarray:
    """The minimiser s of sum bg s^2 + sum fg (s - 1)^2 + sum_{i<j} w_ij (s_i - s_j)^2.

    Section 4.2, equation 9.

    Args:
        affinity: (n, n) symmetric w >= 0, zero diagonal.
        foreground, background: (n,) weights >= 0.
    """
    # a flat image has no terms: 1e-9 keeps its system regular
    diagonal = affinity.sum(1) + background + foreground + 1e-9
    return solve_system(np.diag(diagonal) - affinity, foreground)
