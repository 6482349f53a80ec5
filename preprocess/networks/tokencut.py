"""TokenCut: a normalised cut of a vision transformer's tokens (Wang et al., CVPR 2022)."""

import numpy as np
from scipy.linalg import eigh
from scipy.ndimage import label
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

EPSILON = 1e-5  # weight of all other pairs, so that the graph hangs together
SAME = 1e-9  # a graph whose weights all differ by less has nothing to cut


def affinity(features: np.ndarray, tau: float) -> np.ndarray:
    """(n, n) float64: 1 where the cosine of two (n, c) features is above tau, else EPSILON."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    direction = features / np.maximum(length, 1e-12)
    return np.where(direction @ direction.T > tau, 1.0, EPSILON)


def second_vector(weight: np.ndarray) -> np.ndarray:
    """(n,) second smallest generalised eigenvector of (D - W) v = l D v.

    The authors solve that densely. With y = D^1/2 v it is the second largest eigenvector of D^-1/2
    W D^-1/2, whose largest, D^1/2 1, is known and taken out: ARPACK needs some dozen products then.

    Args:
        weight: (n, n) float64 W, symmetric and positive, n > 2.
    """
    degree = weight.sum(1)
    root, first = 1 / np.sqrt(degree), np.sqrt(degree / degree.sum())
    matrix = root[:, None] * weight * root - np.outer(first, first)
    start = np.random.default_rng(0).standard_normal(len(weight))  # the same image, the same map
    try:
        return root * eigsh(matrix, 1, which="LA", v0=start)[1][:, 0]
    except ArpackNoConvergence:
        return eigh(np.diag(degree) - weight, np.diag(degree), subset_by_index=[1, 1])[1][:, 0]


def cut(features: np.ndarray, tau: float) -> np.ndarray:
    """The tokens of the object, of a square image.

    The second eigenvector is split at its mean; the object is the side of its largest absolute
    value, and of that side the 4-connected part which holds that token (section 3.3).

    Args:
        features: (side * side, c) float, row by row.
        tau: cosine similarity above which two tokens are linked (section 3.2 of the paper).

    Returns:
        (side, side) float32, 1 = object; all 0 where every token is linked to every other, or
        none to any.
    """
    weight = affinity(np.asarray(features, np.float64), tau)
    shape = (round(len(weight) ** 0.5),) * 2
    if np.ptp(weight[~np.eye(len(weight), dtype=bool)]) < SAME:
        return np.zeros(shape, np.float32)
    vector = second_vector(weight)
    size = np.abs(vector)
    # of equal ones the first, whatever the last digits are
    seed = int(np.argmax(np.round(size / size.max(), 6)))
    side = vector > vector.mean()
    parts, _ = label((side == side[seed]).reshape(shape))
    return (parts == parts.flat[seed]).astype(np.float32)
