"""The compiled solver against numpy's."""

import numpy as np
import pytest

from preprocess.vision import ldl as linear


@pytest.mark.parametrize("n", [1, 2, 7, 200])
def test_equals_numpys_solve(n):
    rng = np.random.default_rng(n)
    weight = rng.random((n, n)) * (rng.random((n, n)) < 0.3)
    weight = np.triu(weight, 1) + np.triu(weight, 1).T
    system = np.diag(weight.sum(1) + rng.random(n) + 1e-3) - weight
    before = system.copy()
    for right in (rng.random(n), rng.random((n, 3))):
        assert linear.solve(system, right) == pytest.approx(
            np.linalg.solve(system, right), rel=1e-8
        )
    inverse, expected = linear.Inverse.of(system), np.linalg.inv(system)
    assert inverse @ np.eye(n) == pytest.approx(expected, rel=1e-7)
    assert inverse @ right[:, 0] == pytest.approx(expected @ right[:, 0], rel=1e-7)
    assert inverse.diagonal() == pytest.approx(np.diag(expected), rel=1e-7)
    assert np.array_equal(system, before)
