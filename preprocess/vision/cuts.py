"""GrabCut (Rother, Kolmogorov, Blake, SIGGRAPH 2004) on superpixels.

OpenCV's works on pixels and takes 10 to 60 ms; on 400 superpixels the same energy takes 1 to 2 ms,
follows the contours as well, and is the more accurate for it (measured on ECSSD, even numbers).
The maximum flow is compiled: scipy's takes four times as long, 3 ms of fusion's 20 times decoding.
"""

from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np

from data.kernels import njit
from preprocess.vision import mixture
from preprocess.vision.regions import describe, label_mean
from preprocess.vision.superpixels import slic

GAMMA = 50.0  # of the contrast-sensitive smoothness (the paper's section 3.2)
# of a full contact: what a pixel of foreground on the image border costs, as if background went on
OUTSIDE = 0.1
LEAST = 0.005  # of the image: a smaller foreground is a failed cut
CERTAIN = 0.05, 0.97  # priors below and above which a cell is certain
ROUNDS = 3  # of colour models and cut
CAPACITY = 256.0  # integer capacities a unit of energy: the cut is exact and the same everywhere


@dataclass(frozen=True)
class Links:
    """Undirected links of n nodes as m directed edges, node i's from start[i] to start[i + 1].

    Attributes:
        start: (n + 1,) int64.
        neighbour: (m,) int64, the node that an edge leads to.
        reverse: (m,) int64, the edge that leads back.
        weight: (m,) float64, the same both ways.
    """

    start: np.ndarray
    neighbour: np.ndarray
    reverse: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, weight: np.ndarray) -> Self:
        """The links of (n, n) float64 symmetric weights that are not 0."""
        edges = np.flatnonzero(weight.ravel() != 0)
        rows, columns = np.divmod(edges, len(weight))
        start = np.searchsorted(rows, np.arange(len(weight) + 1))
        reverse = np.argsort(columns * len(weight) + rows)
        return cls(start, columns, reverse, weight.ravel()[edges])


@dataclass(frozen=True)
class Cells:
    """Fine superpixels of an image, n of them, and what a cut between any two costs.

    Attributes:
        labels: (h, w) int32.
        lab: (n, 3) float64 mean colours.
        size: (n,) float64 pixels.
        contact: of touching cells, the sum over touching pixels of exp(-beta |RGB difference|^2).
        edge: (n,) float64, pixels on the image's border (a corner counts twice).
    """

    labels: np.ndarray
    lab: np.ndarray
    size: np.ndarray
    contact: Links
    edge: np.ndarray

    def mean(self, values: np.ndarray) -> np.ndarray:
        """(n,) float64 means of an (h, w) map over the cells."""
        return label_mean(self.labels, values, self.size)


def cells(image: np.ndarray, planes: np.ndarray, superpixels: int) -> Cells:
    """Fine superpixels of an (h, w, 3) uint8 RGB image with (3, h, w) float32 Lab planes."""
    labels, count = slic(planes, superpixels, iterations=5)
    lab, _, size, _ = describe(labels, planes.transpose(1, 2, 0), count)
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    return Cells(
        labels=labels,
        lab=lab,
        size=size,
        contact=Links.of(_contact(labels, image, _contrast(image), count)),
        edge=np.bincount(border, minlength=count).astype(np.float64),
    )


@njit("float64[:, ::1](int32[:, ::1], uint8[:, :, ::1], float64, int64)", cache=True, nogil=True)
def _contact(labels, image, beta, count):
    """(n, n) float64 contact of any two cells, see Cells."""
    h, w = labels.shape
    contact = np.zeros((count, count))
    for y in range(h):
        for x in range(w):
            for ny, nx in ((y, x + 1), (y + 1, x)):
                if ny < h and nx < w and labels[ny, nx] != labels[y, x]:
                    distance = 0.0
                    for c in range(3):
                        distance += (np.float64(image[y, x, c]) - image[ny, nx, c]) ** 2
                    weight = np.exp(-beta * distance)
                    contact[labels[y, x], labels[ny, nx]] += weight
                    contact[labels[ny, nx], labels[y, x]] += weight
    return contact


def _contrast(image: np.ndarray) -> float:
    """Beta: 0.5 over the mean squared RGB difference of neighbours (the paper's section 2)."""
    height, width = image.shape[:2]
    down = cv2.norm(image[1:], image[:-1], cv2.NORM_L2SQR) if height > 1 else 0.0
    across = cv2.norm(image[:, 1:], image[:, :-1], cv2.NORM_L2SQR) if width > 1 else 0.0
    pairs = (height - 1) * width + height * (width - 1)
    return 0.5 / max((down + across) / max(pairs, 1), 1e-6)


def grab(fine: Cells, prior: np.ndarray) -> np.ndarray:
    """Cut the foreground that a soft prior suggests.

    Args:
        fine: n cells.
        prior: (n,) float64 in [0, 1]; from 0.5 it starts as foreground.

    Returns:
        (n,) float64, 0 or 1; the prior itself where there is nothing to cut, or the cut leaves less
        than LEAST.
    """
    chosen = prior >= 0.5
    share = fine.size / fine.size.sum()
    certain = np.where(prior < CERTAIN[0], -1, np.where(prior > CERTAIN[1], 1, 0))
    for _ in range(ROUNDS):
        if chosen.all() or share[chosen].sum() <= LEAST:
            return prior
        inside, outside = (
            mixture.log_likelihood(fine.lab, mixture.fit(fine.lab, fine.size * side))
            for side in (chosen, ~chosen)
        )
        gain = fine.size * (inside - outside) - GAMMA * OUTSIDE * fine.edge
        before, chosen = chosen, minimum_cut(gain, fine.contact, GAMMA, certain)
        if np.array_equal(before, chosen):
            break
    return chosen.astype(np.float64) if share[chosen].sum() > LEAST else prior


def minimum_cut(gain: np.ndarray, links: Links, scale: float, certain: np.ndarray) -> np.ndarray:
    """The set with the greatest sum of gains less the costs of the links it cuts; exact.

    Args:
        gain: (n,) float64, of each node's being in the set.
        scale: what a link of weight 1 costs.
        certain: (n,) integers: 1 is in the set, -1 is not, 0 is open.

    Returns:
        (n,) bool; of several best sets the smallest.
    """
    cost = scale * links.weight
    total = np.concatenate([[0.0], np.cumsum(cost)])
    # more than certain nodes can be pulled with
    bound = total[links.start[1:]] - total[links.start[:-1]] + np.abs(gain) + 1
    terminal = np.rint(np.where(certain != 0, certain * bound, gain) * CAPACITY).astype(np.int64)
    capacity = np.rint(cost * CAPACITY).astype(np.int64)
    return _minimum_cut(terminal, links.start, links.neighbour, links.reverse, capacity)


@njit(
    "boolean[::1](int64[::1], int64[::1], int64[::1], int64[::1], int64[::1])",
    cache=True,
    nogil=True,
)
def _minimum_cut(terminal, start, neighbour, reverse, capacity):
    """Dinic's algorithm.

    `terminal` is a node's link from the source (positive) or to the sink (negative).
    """
    n = len(terminal)
    residual = capacity.copy()
    supply, demand = np.maximum(terminal, 0), np.maximum(-terminal, 0)
    level, queue, pointer = np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    path, far = np.empty(n, np.int64), np.int64(2**62)
    while True:
        level[:] = -1
        last = 0
        for i in range(n):
            if supply[i] > 0:
                level[i] = 0
                queue[last] = i
                last += 1
        first, reached = 0, far
        while first < last:
            i = queue[first]
            first += 1
            if demand[i] > 0:
                reached = min(reached, level[i])
            for e in range(start[i], start[i + 1]):
                if residual[e] > 0 and level[neighbour[e]] < 0:
                    level[neighbour[e]] = level[i] + 1
                    queue[last] = neighbour[e]
                    last += 1
        if reached == far:
            return level >= 0
        pointer[:] = start[:n]
        for source in range(n):
            while supply[source] > 0 and level[source] == 0:
                i, depth = source, 0
                while demand[i] == 0:  # one augmenting path, depth first along rising levels
                    e = pointer[i]
                    if e == start[i + 1]:
                        if depth == 0:
                            break
                        depth -= 1
                        i = neighbour[reverse[path[depth]]]
                        pointer[i] += 1
                    elif residual[e] > 0 and level[i] + 1 == level[neighbour[e]] <= reached:
                        path[depth] = e
                        depth += 1
                        i = neighbour[e]
                    else:
                        pointer[i] += 1
                if demand[i] == 0:
                    break
                flow = min(supply[source], demand[i])
                for d in range(depth):
                    flow = min(flow, residual[path[d]])
                supply[source] -= flow
                demand[i] -= flow
                for d in range(depth):
                    residual[path[d]] -= flow
                    residual[reverse[path[d]]] += flow
