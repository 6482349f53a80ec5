"""Weighted Gaussian mixtures of colours, compiled: the colour models of a foreground and a
background."""

from __future__ import annotations

import numpy as np
from numba import njit

COMPONENTS = 5  # of GrabCut (Rother et al., SIGGRAPH 2004, section 3.1)
VARIANCE = 16.0  # Lab units squared, added to each: superpixel means vary less than their pixels


def fit(
    colours: np.ndarray, weight: np.ndarray, components: int = COMPONENTS, steps: int = 2
) -> np.ndarray:
    """Fit a mixture of full-covariance Gaussians by k-means, then expectation maximisation.

    Deterministic: components start as quantiles along the main axis of the colours.

    Args:
        colours: (n, 3) float64.  weight: (n,) float64 >= 0, not all 0.

    Returns:
        (k, 13) float64, a row a component: log weight minus half the log determinant, mean (3),
        inverse covariance (9).
    """
    held = weight > 0  # the others would only cost time
    return _fit(
        np.ascontiguousarray(colours[held]),
        np.ascontiguousarray(weight[held], np.float64),
        components,
        steps,
    )


def log_likelihood(colours: np.ndarray, mixture: np.ndarray) -> np.ndarray:
    """(n,) float64 log densities, up to a constant common to all mixtures, of (n, 3) colours."""
    return _log_likelihood(np.ascontiguousarray(colours), mixture)


@njit(
    "float64(float64[:, ::1], int64, float64[:, ::1], int64)",
    cache=True,
    nogil=True,
    inline="always",
)
def _log_density(colours, i, mixture, k):
    a, b, c = (
        colours[i, 0] - mixture[k, 1],
        colours[i, 1] - mixture[k, 2],
        colours[i, 2] - mixture[k, 3],
    )
    m = mixture[k]
    return m[0] - 0.5 * (
        a * (m[4] * a + 2 * (m[5] * b + m[6] * c)) + b * (m[8] * b + 2 * m[9] * c) + c * m[12] * c
    )


@njit("float64[::1](float64[:, ::1], float64[:, ::1])", cache=True, nogil=True)
def _log_likelihood(colours, mixture):
    n, k = colours.shape[0], mixture.shape[0]
    out, parts = np.empty(n), np.empty(k)
    for i in range(n):
        best = -np.inf
        for j in range(k):
            parts[j] = _log_density(colours, i, mixture, j)
            best = max(best, parts[j])
        total = 0.0
        for j in range(k):
            total += np.exp(parts[j] - best)
        out[i] = best + np.log(total)
    return out


@njit("float64[:, ::1](float64[:, ::1], float64[::1], float64[:, ::1])", cache=True, nogil=True)
def _maximise(colours, weight, share):
    """The mixture that fits colours of which component k holds share[k, i]."""
    n, k = colours.shape[0], share.shape[0]
    mixture = np.empty((k, 13))
    total = weight.sum()
    for j in range(k):
        mass, mean, second = 1e-9 * total, np.zeros(3), np.zeros((3, 3))
        for i in range(n):
            w = weight[i] * share[j, i]
            mass += w
            for a in range(3):
                mean[a] += w * colours[i, a]
        mean /= mass
        for i in range(n):
            w = weight[i] * share[j, i]
            if w > 0:
                for a in range(3):
                    for b in range(a + 1):
                        second[a, b] += w * (colours[i, a] - mean[a]) * (colours[i, b] - mean[b])
        for a in range(3):
            for b in range(a + 1):
                second[a, b] /= mass
                second[b, a] = second[a, b]
            second[a, a] += VARIANCE
        inverse = np.linalg.inv(second)
        mixture[j, 0] = np.log(mass / total) - 0.5 * np.log(np.linalg.det(second))
        mixture[j, 1:4] = mean
        mixture[j, 4:] = inverse.ravel()
    return mixture


@njit("int64[::1](float64[:, ::1], float64[::1], int64)", cache=True, nogil=True)
def _quantiles(colours, weight, components):
    """(n,) the quantile, 0 to components - 1, of each colour along the main axis."""
    n, total = colours.shape[0], weight.sum()
    mean, second = np.zeros(3), np.zeros((3, 3))
    for i in range(n):
        mean += weight[i] * colours[i]
    mean /= total
    for i in range(n):
        for a in range(3):
            for b in range(3):
                second[a, b] += weight[i] * (colours[i, a] - mean[a]) * (colours[i, b] - mean[b])
    axis = np.linalg.eigh(second)[1][:, 2]
    along = np.empty(n)
    for i in range(n):
        along[i] = 0.0
        for a in range(3):
            along[i] += (colours[i, a] - mean[a]) * axis[a]
    owner, before = np.empty(n, np.int64), 0.0
    for i in np.argsort(along, kind="mergesort"):  # stable
        owner[i] = min(max(int((before + 0.5 * weight[i]) / total * components), 0), components - 1)
        before += weight[i]
    return owner


@njit("float64[:, ::1](float64[:, ::1], float64[::1], int64, int64)", cache=True, nogil=True)
def _fit(colours, weight, components, steps):
    n = colours.shape[0]
    owner = _quantiles(colours, weight, components)
    for _ in range(4):  # k-means
        centre, mass = np.zeros((components, 3)), np.zeros(components)
        for i in range(n):
            mass[owner[i]] += weight[i]
            for a in range(3):
                centre[owner[i], a] += weight[i] * colours[i, a]
        for i in range(n):
            nearest, best = 0, np.inf
            for j in range(components):
                if mass[j] > 0:
                    distance = 0.0
                    for a in range(3):
                        distance += (colours[i, a] - centre[j, a] / mass[j]) ** 2
                    if distance < best:
                        nearest, best = j, distance
            owner[i] = nearest
    share = np.zeros((components, n))
    for i in range(n):
        share[owner[i], i] = 1
    mixture = _maximise(colours, weight, share)
    for _ in range(steps):
        for i in range(n):
            best, total = -np.inf, 0.0
            for j in range(components):
                share[j, i] = _log_density(colours, i, mixture, j)
                best = max(best, share[j, i])
            for j in range(components):
                share[j, i] = np.exp(share[j, i] - best)
                total += share[j, i]
            for j in range(components):
                share[j, i] /= total
        mixture = _maximise(colours, weight, share)
    return mixture
