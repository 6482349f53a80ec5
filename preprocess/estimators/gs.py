"""GS: geodesic saliency using background priors (Wei, Wen, Zhu, Sun, ECCV 2012)."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse.csgraph import csgraph_from_dense, dijkstra

from preprocess.estimators.regional import Regional
from preprocess.vision.pixels import min_max
from preprocess.vision.regions import Regions, scales

SIMILAR = 0.025  # of all superpixels: how many of the border a border superpixel is compared with
SATURATED = 0.02  # of the superpixels, the most salient ones, that become 1


@dataclass(frozen=True)
class GS(Regional):
    """The cost of the cheapest path to the background (section 3.1)."""

    name = "gs"

    @staticmethod
    def solve(parts: Regions) -> np.ndarray:
        cost = np.maximum(parts.colour - scales(parts).clip, 0)
        edge = np.where(parts.adjacent | parts.clique, cost, np.inf)
        graph = csgraph_from_dense(edge, null_value=np.inf)  # an edge may cost 0
        distance = dijkstra(graph, indices=np.flatnonzero(background(parts)), min_only=True)
        distance = np.where(np.isfinite(distance), distance, 0)
        rank = min(max(round(SATURATED * len(distance)) - 1, 0), len(distance) - 1)
        top = np.sort(distance)[::-1][rank]
        return np.clip(distance / top, 0, 1) if top > 0 else np.zeros(len(distance))


def background(parts: Regions) -> np.ndarray:
    """(n,) bool: border superpixels that are like others of the border (section 3.2).

    One that is unlike its nearest kin along the border is likely an object that touches it.
    """
    border = np.flatnonzero(parts.border)
    kin = (parts.colour / (1 + 3 * parts.space))[np.ix_(border, border)]
    count = max(1, min(round(SIMILAR * len(parts.size)), len(border) - 1))
    unlike = np.sort(kin, 1)[:, :count].mean(1)
    chosen = np.zeros(len(parts.size), bool)
    chosen[border if np.ptp(unlike) <= 1 else border[min_max(unlike) <= 0.5]] = True
    return chosen
