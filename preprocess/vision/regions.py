"""Superpixels and the region graph that RBD, GS, MR, MC and SF share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numba import njit

from preprocess.vision.frames import inner_box
from preprocess.vision.pixels import lab_planes, working_image
from preprocess.vision.superpixels import slic

PARAMETERS = {
    "superpixels": 200,
    "max_side": 256,
    "compactness": 20.0,
    "iterations": 10,
    "frame": True,
}
CUT = 3.0  # sigmas beyond which a gaussian weight is 0 (the authors' code)


@dataclass(frozen=True)
class Regions:
    """An image's superpixels and their graph; n of them.

    Attributes:
        image: (h, w, 3) uint8 RGB, the picture inside the artificial frame, at the working size.
        planes: (3, h, w) float32, its Lab planes.  labels: (h, w) int32.
        shape: (H, W) of the whole working image; box: (top, bottom, left, right), where the picture
            lies in it.
        lab: (n, 3) float64, the Lab colour (L in 0..100) of a superpixel's mean RGB.
        position: (n, 2) float64, mean row / h and column / w, in 0..1.
        size: (n,) float64, pixels.
        border: (n,) bool, superpixels that touch the border band; sides: (4, n) bool, the same for
            top, bottom, left and right alone, and one pixel wide.
        adjacent: (n, n) bool, symmetric, sharing a side of a pixel; the diagonal is False.
    """

    image: np.ndarray
    planes: np.ndarray
    labels: np.ndarray
    shape: tuple[int, int]
    box: tuple[int, int, int, int]
    lab: np.ndarray
    position: np.ndarray
    size: np.ndarray
    border: np.ndarray
    sides: np.ndarray
    adjacent: np.ndarray

    @cached_property
    def colour(self) -> np.ndarray:
        """(n, n) float64 Lab distances."""
        return euclidean(self.lab)

    @cached_property
    def space(self) -> np.ndarray:
        """(n, n) float64 distances of the positions."""
        return euclidean(self.position)

    @cached_property
    def near(self) -> np.ndarray:
        """(n, n) bool: one or two steps apart in the graph; the diagonal is False."""
        return two_ring(self.adjacent)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """(n,) float64 means over the superpixels of an (h, w) map of the picture."""
        return np.bincount(self.labels.ravel(), values.ravel(), len(self.size)) / self.size

    def paint(self, values: np.ndarray) -> np.ndarray:
        """(n,) values to a float32 (H, W) map; the artificial frame is 0."""
        return self.unframed(np.take(np.asarray(values, np.float32), self.labels))

    def unframed(self, inner: np.ndarray) -> np.ndarray:
        """An (h, w) map of the picture as one of the whole working image, float32 (H, W), 0 in the
        artificial frame."""
        top, bottom, left, right = self.box
        if inner.shape == self.shape:
            return inner
        saliency = np.zeros(self.shape, np.float32)
        saliency[top:bottom, left:right] = inner
        return saliency


def regions(
    image: np.ndarray,
    superpixels: int = 200,
    max_side: int = 256,
    compactness: float = 20.0,
    iterations: int = 10,
    frame: bool = True,
) -> Regions:
    """Superpixels and region graph of an (H, W, 3) uint8 RGB image (Zhu et al., CVPR 2014, section
    3.1 and demo).

    Args:
        superpixels: wanted number, whatever the image's size.  max_side: of the working image, px.
        compactness, iterations: see superpixels.slic.  frame: leave out an artificial frame.
    """
    image = working_image(image, max_side)
    shape = image.shape[:2]
    box = (
        inner_box(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)) if frame else (0, shape[0], 0, shape[1])
    )
    image = np.ascontiguousarray(image[box[0] : box[1], box[2] : box[3]])
    height, width = image.shape[:2]
    planes = lab_planes(image)
    labels, count = slic(planes, superpixels, compactness, iterations)
    band = max(
        1, round((height * width / count) ** 0.5 / 3)
    )  # 8 px where a superpixel has the authors' 600
    rgb, position, size, sides, adjacent = _describe(labels, image, count)
    border = _touching(labels, count, band)
    lab = cv2.cvtColor((rgb / 255).astype(np.float32)[None], cv2.COLOR_RGB2LAB)[0].astype(
        np.float64
    )
    return Regions(
        image,
        planes,
        labels,
        shape,
        box,
        lab,
        position / (height, width),
        size,
        border,
        sides,
        adjacent,
    )


def _touching(labels: np.ndarray, count: int, band: int) -> np.ndarray:
    """(n,) bool: superpixels with a pixel within `band` px of the border."""
    border = np.zeros(count, bool)
    for strip in (labels[:band], labels[-band:], labels[:, :band], labels[:, -band:]):
        border[strip] = True
    return border


@njit(
    "Tuple((float64[:, ::1], float64[:, ::1], float64[::1], boolean[:, ::1], boolean[:, ::1]))"
    "(int32[:, ::1], uint8[:, :, ::1], int64)",
    cache=True,
    nogil=True,
)
def _describe(labels, image, count):
    """Mean RGB (n, 3), mean row and column (n, 2), size (n,), border sides (4, n) and adjacency (n,
    n)."""
    h, w = labels.shape
    rgb, position, size = np.zeros((count, 3)), np.zeros((count, 2)), np.zeros(count)
    sides, adjacent = np.zeros((4, count), np.bool_), np.zeros((count, count), np.bool_)
    for y in range(h):
        for x in range(w):
            k = labels[y, x]
            rgb[k, 0] += image[y, x, 0]
            rgb[k, 1] += image[y, x, 1]
            rgb[k, 2] += image[y, x, 2]
            position[k, 0] += y
            position[k, 1] += x
            size[k] += 1
            if y + 1 < h:
                below = labels[y + 1, x]
                adjacent[k, below] = adjacent[below, k] = True
            if x + 1 < w:
                right = labels[y, x + 1]
                adjacent[k, right] = adjacent[right, k] = True
    for k in range(count):
        rgb[k] /= size[k]
        position[k] = (position[k] + 0.5 * size[k]) / size[k]
        adjacent[k, k] = False
    for x in range(w):
        sides[0, labels[0, x]] = sides[1, labels[h - 1, x]] = True
    for y in range(h):
        sides[2, labels[y, 0]] = sides[3, labels[y, w - 1]] = True
    return rgb, position, size, sides, adjacent


@njit("boolean[:, ::1](boolean[:, ::1])", cache=True, nogil=True)
def two_ring(adjacent):
    """(n, n) bool: superpixels one or two steps apart in an (n, n) bool graph; the diagonal is
    False."""
    n = adjacent.shape[0]
    near = adjacent.copy()
    for i in range(n):
        for j in range(n):
            if adjacent[i, j]:
                for k in range(n):
                    near[i, k] |= adjacent[j, k]
        near[i, i] = False
    return near


def euclidean(points: np.ndarray) -> np.ndarray:
    """(n, n) float64 distances between the rows of an (n, d) array."""
    return _euclidean(np.ascontiguousarray(points, np.float64))


@njit("float64[:, ::1](float64[:, ::1])", cache=True, nogil=True)
def _euclidean(points):
    n, d = points.shape
    out = np.zeros((n, n))
    for i in range(n):
        for j in range(i):
            total = 0.0
            for k in range(
                d
            ):  # differences first: the expanded square would lose the digits of near pairs
                total += (points[i, k] - points[j, k]) ** 2
            out[i, j] = out[j, i] = np.sqrt(total)
    return out


def gaussian(distance: np.ndarray, sigma: float) -> np.ndarray:
    """exp(-d^2 / 2 sigma^2), cut to 0 beyond CUT sigma; sigma 0 leaves only d = 0 at 1.

    The type of `distance`, float32 or float64, is kept.
    """
    if sigma <= 0:
        return (distance == 0).astype(distance.dtype)
    weight = np.exp(distance * distance * distance.dtype.type(-0.5 / (sigma * sigma)))
    return weight * (distance <= CUT * sigma)


def unit(values: np.ndarray) -> np.ndarray:
    """Min-max normalise to [0, 1]; all zero where the values do not differ."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high - low > 1e-12 else np.zeros_like(values)


@dataclass(frozen=True)
class Scales:
    """Colour scales told from the image itself (RBD's dynamic parameters), in Lab units."""

    clip: float
    geodesic: float
    neighbour: float


def scales(parts: Regions) -> Scales:
    """Edge clip, geodesic sigma and smoothness sigma from the colour distances in the one-ring and
    the two-ring."""
    edges = parts.colour[parts.adjacent]
    if len(parts.size) < 3 or not len(edges):
        return Scales(0.0, 5.0, 0.0)
    first, second = _nearest(parts.colour, parts.adjacent), _nearest(parts.colour, parts.near)
    count = max(1, round(0.01 * len(edges)))
    top = np.partition(edges, len(edges) - count)[len(edges) - count :].mean()
    return Scales(second, max(5.0, min(10.0, 3 * first, top / 10)), min(3 * first, 0.2 * top, 20.0))


@njit("float64(float64[:, ::1], boolean[:, ::1])", cache=True, nogil=True)
def _nearest(distance, linked):
    """Mean over nodes of the distance to the nearest linked one; nodes without a link do not
    count."""
    total, count = 0.0, 0
    for i in range(distance.shape[0]):
        best = np.inf
        for j in range(distance.shape[0]):
            if linked[i, j] and distance[i, j] < best:
                best = distance[i, j]
        if best < np.inf:
            total += best
            count += 1
    return total / max(count, 1)


def shortest_paths(edge: np.ndarray, limit: float = np.inf) -> np.ndarray:
    """All-pairs shortest path lengths of a symmetric graph (Floyd–Warshall).

    Args:
        edge: (n, n) edge costs >= 0, symmetric; np.inf where there is no edge. A cost of 0 is an
            edge.
        limit: longer paths need only be known to be longer, which saves most of the time where
            parts lie far apart.

    Returns:
        (n, n) float32; np.inf between unconnected parts, 0 on the diagonal; beyond `limit` any
        length beyond it.
    """
    paths = np.array(edge, np.float32, order="C")
    np.fill_diagonal(paths, 0)
    _floyd_warshall(paths, np.float32(min(limit, np.finfo(np.float32).max)))
    return paths


@njit("void(float32[:, ::1], float32)", cache=True, nogil=True)
def _floyd_warshall(paths, limit):
    """In place; only the lower triangle is worked on, for the graph is symmetric.

    No path within the limit leads through a node that is farther away, so rows for which node k is
    are left alone.
    """
    n = paths.shape[0]
    through = np.empty(n, np.float32)
    for k in range(n):
        for i in range(n):
            through[i] = paths[k, i] if i <= k else paths[i, k]
        for i in range(n):
            via = through[i]
            if via <= limit:
                row = paths[i, : i + 1]
                for j in range(row.shape[0]):
                    candidate = via + through[j]
                    row[j] = candidate if candidate < row[j] else row[j]
    for i in range(n):
        for j in range(i):
            paths[j, i] = paths[i, j]


def distance_to(edge: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(n,) float64 length of the shortest path from each node to the nearest target; np.inf where
    there is none.

    Args:
        edge: (n, n) costs as in shortest_paths.  target: (n,) bool.
    """
    return _dijkstra(np.ascontiguousarray(edge, np.float64), target)


@njit("float64[::1](float64[:, ::1], boolean[::1])", cache=True, nogil=True)
def _dijkstra(edge, target):
    """Dense Dijkstra from all targets at once: n^2 steps, for about 200 nodes."""
    n = edge.shape[0]
    distance = np.where(target, 0.0, np.inf)
    done = np.zeros(n, np.bool_)
    for _ in range(n):
        nearest, best = -1, np.inf
        for i in range(n):
            if not done[i] and distance[i] < best:
                nearest, best = i, distance[i]
        if nearest < 0:
            break
        done[nearest] = True
        for j in range(n):
            candidate = best + edge[nearest, j]
            if candidate < distance[j]:
                distance[j] = candidate
    return distance
