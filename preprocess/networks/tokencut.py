"""TokenCut: a normalised cut of a vision transformer's tokens into an object and the rest (Wang et
al., CVPR 2022)."""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh, eigh_tridiagonal
from scipy.ndimage import label

TAU = 0.2  # cosine similarity above which two tokens are linked (section 3.2 of the paper)
EPSILON = 1e-5  # weight of all other pairs, so that the graph hangs together
RESIDUAL = 1e-8  # of an eigenvector of a matrix whose eigenvalues lie in -1..1
STEPS = 200  # of Lanczos; some dozen are usual
SAME = 1e-9  # a graph whose weights all differ by less has nothing to cut


def affinity(features: np.ndarray, tau: float = TAU) -> np.ndarray:
    """(n, n) float64: 1 where the cosine of two tokens' (n, c) features is above tau, else
    EPSILON."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return np.where(unit @ unit.T > tau, 1.0, EPSILON)


def second_vector(weight: np.ndarray) -> np.ndarray:
    """(n,) second smallest generalised eigenvector of (D - W) v = l D v, W (n, n) symmetric and
    positive, n > 2.

    The authors solve that densely. With y = D^1/2 v it is the second largest eigenvector of D^-1/2
    W D^-1/2, whose largest, D^1/2 1, is known: Lanczos (Parlett, The Symmetric Eigenvalue Problem,
    ch. 13) among the vectors orthogonal to it needs some dozen products with W for the same vector,
    up to sign and length.
    """
    degree = weight.sum(1)
    root, first = 1 / np.sqrt(degree), np.sqrt(degree / degree.sum())
    basis = np.empty((min(STEPS, len(weight) - 1) + 1, len(weight)))
    basis[0] = first
    vector = np.random.default_rng(0).standard_normal(
        len(weight)
    )  # the same image must give the same map
    diagonal, beside = [], []
    for step in range(1, len(basis)):
        for _ in range(
            2
        ):  # rounding leaves a rest of the earlier vectors, of which the second pass leaves nothing
            vector -= (basis[:step] @ vector) @ basis[:step]
        length = np.linalg.norm(vector)
        beside.append(length)
        if step > 1 and (step % 4 == 0 or length < RESIDUAL or step == len(basis) - 1):
            _, top = eigh_tridiagonal(
                diagonal, beside[1:-1], select="i", select_range=(step - 2, step - 2)
            )
            if length * abs(top[-1, 0]) < RESIDUAL:
                return root * (top[:, 0] @ basis[1:step])
        basis[step] = vector / length
        vector = root * (weight @ (root * basis[step]))
        diagonal.append(basis[step] @ vector)
    return eigh(np.diag(degree) - weight, np.diag(degree), subset_by_index=[1, 1])[1][:, 0]


def cut(features: np.ndarray, height: int, width: int, tau: float = TAU) -> np.ndarray:
    """The tokens of the object.

    The second eigenvector is split at its mean; the object is the side of its largest absolute
    value, and of that side the 4-connected part which holds that token (section 3.3).

    Args:
        features: (height * width, c) float, row by row.

    Returns:
        (height, width) float32, 1 = object; all 0 where every token is linked to every other, or
        none to any.
    """
    weight = affinity(np.asarray(features, np.float64), tau)
    if np.ptp(weight[~np.eye(len(weight), dtype=bool)]) < SAME:
        return np.zeros((height, width), np.float32)
    vector = second_vector(weight)
    size = np.abs(vector)
    seed = int(
        np.argmax(np.round(size / size.max(), 6))
    )  # of equal ones the first, whatever the last digits are
    side = vector > vector.mean()
    parts, _ = label((side == side[seed]).reshape(height, width))
    return (parts == parts.flat[seed]).astype(np.float32)
