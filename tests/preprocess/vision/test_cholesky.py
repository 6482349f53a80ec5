"""Positive definite systems against numpy's general solver."""

import numpy as np
import pytest

from preprocess.vision import cholesky


@pytest.mark.parametrize("n", [1, 2, 7, 200])
def test_equals_numpys(n):
    rng = np.random.default_rng(n)
    weight = rng.random((n, n)) * (rng.random((n, n)) < 0.3)
    weight = np.triu(weight, 1) + np.triu(weight, 1).T
    system = np.diag(weight.sum(1) + rng.random(n) + 1e-3) - weight
    before = system.copy()
    for right in (rng.random(n), rng.random((n, 3))):
        expected = np.linalg.solve(system, right)
        assert cholesky.solve(system, right) == pytest.approx(expected, rel=1e-8)
    assert cholesky.inverse(system) == pytest.approx(np.linalg.inv(system), rel=1e-7)
    assert np.array_equal(system, before)


def test_a_system_that_is_not_positive_definite_is_refused():
    for function in (cholesky.inverse, lambda a: cholesky.solve(a, np.ones(2))):
        with pytest.raises(np.linalg.LinAlgError):
            function(np.array([[1.0, 2.0], [2.0, 1.0]]))
