"""GS: geodesic saliency using background priors (Wei, Wen, Zhu, Sun, ECCV 2012)."""

from __future__ import annotations

import numpy as np

from preprocess.vision import regions as graph
from preprocess.vision.regions import Regions, unit

VERSION = 1
PARAMETERS = dict(graph.PARAMETERS)
# of all superpixels: how many of the border a border superpixel is compared with (5 of 200)
SIMILAR = 0.025
SATURATED = 0.02  # of the superpixels, the most salient ones, that become 1


def saliency(image: np.ndarray, **parameters) -> np.ndarray:
    """Geodesic saliency of an (H, W, 3) uint8 RGB image: float32 (h, w) in [0, 1] at the working
    size."""
    parts = graph.regions(image, **parameters)
    return parts.paint(solve(parts))


def solve(parts: Regions) -> np.ndarray:
    """(n,) float64 saliency in [0, 1]: the cost of the cheapest path to the background (section
    3.1)."""
    colour = parts.colour
    clique = np.logical_and.outer(parts.border, parts.border)
    scale = graph.scales(parts)
    edge = np.where(parts.adjacent | clique, np.maximum(colour - scale.clip, 0), np.inf)
    distance = graph.distance_to(edge, background(parts))
    distance = np.where(np.isfinite(distance), distance, 0)
    top = np.sort(distance)[::-1][
        min(max(round(SATURATED * len(distance)) - 1, 0), len(distance) - 1)
    ]
    return np.clip(distance / top, 0, 1) if top > 0 else np.zeros(len(distance))


def background(parts: Regions) -> np.ndarray:
    """(n,) bool: the border superpixels that are like others of the border (section 3.2, its 1-D
    saliency).

    One that is unlike its nearest kin along the border is likely an object that touches it.
    """
    border = np.flatnonzero(parts.border)
    kin = (parts.colour / (1 + 3 * parts.space))[np.ix_(border, border)]
    count = max(1, min(round(SIMILAR * len(parts.size)), len(border) - 1))
    unlike = np.sort(kin, 1)[:, :count].mean(1)
    chosen = np.zeros(len(parts.size), bool)
    chosen[border if np.ptp(unlike) <= 1 else border[unit(unlike) <= 0.5]] = True
    return chosen
