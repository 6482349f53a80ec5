"""Positive definite systems against numpy's general solver."""

import numpy as np
import pytest

from preprocess.vision import cholesky


@pytest.mark.parametrize("n", [1, 2, 7, 200])
def test_equals_numpys(n):
    rng = np.random.default_rng(n)
    weight = np.triu(rng.random((n, n)) * (rng.random((n, n)) < 0.3), 1)
    weight = weight + weight.T
    system = np.diag(weight.sum(1) + rng.random(n) + 1e-3) - weight
    before = system.copy()
    for right in (rng.random(n), rng.random((n, 3))):
        expected = np.linalg.solve(system, right)
        assert cholesky.solve(system, right) == pytest.approx(expected, rel=1e-8)
    assert cholesky.inverse(system) == pytest.approx(np.linalg.inv(system), rel=1e-7)
    assert np.array_equal(system, before)
    with pytest.raises(np.linalg.LinAlgError):
        cholesky.inverse(-system)
