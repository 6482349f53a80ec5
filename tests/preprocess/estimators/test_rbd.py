"""RBD, stage by stage, against answers known beforehand."""

import numpy as np
import pytest

from preprocess.estimators import rbd
from preprocess.vision import regions as graph


def boxed(inner=(slice(40, 80), slice(60, 100))):
    """A red box on grey, 120 x 160."""
    image = np.full((120, 160, 3), 128, np.uint8)
    image[inner] = (200, 30, 30)
    return image


def connectivity(image):
    parts = graph.regions(image)
    clique = np.logical_and.outer(parts.border, parts.border)
    found = rbd.boundary_connectivity(
        parts.colour, parts.adjacent | clique, parts.border, graph.scales(parts)
    )
    return parts, found


def test_boundary_connectivity_tells_a_region_inside_from_one_that_touches_the_border():
    parts, found = connectivity(boxed())
    red = parts.lab[:, 1] > 40
    assert found[red].max() < 0.1 and found[~red].min() > 2
    parts, found = connectivity(boxed((slice(0, 50), slice(0, 160))))
    red = parts.lab[:, 1] > 40
    assert found[red].min() > 2


def test_boundary_connectivity_by_hand():
    # Four patches of one colour, two of them on the border; another colour far away, not on it.
    colour = np.zeros((6, 6))
    colour[:4, 4:] = colour[4:, :4] = 100
    linked = ~np.eye(6, dtype=bool)
    border = np.array([True, True, False, False, False, False])
    found = rbd.boundary_connectivity(colour, linked, border, graph.Scales(0, 10, 10))
    assert found == pytest.approx([2 / 4**0.5] * 4 + [0, 0])


def test_optimum_equals_a_dense_solve_of_the_cost():
    rng = np.random.default_rng(3)
    n = 12
    affinity = rng.random((n, n)) * (rng.random((n, n)) < 0.4)
    affinity = np.triu(affinity, 1) + np.triu(affinity, 1).T
    foreground, background = rng.random(n), rng.random(n)
    # The cost as a least-squares problem: a row for each term, each w (s_i - s_j)^2 counted once.
    rows = [np.sqrt(background)[:, None] * np.eye(n), np.sqrt(foreground)[:, None] * np.eye(n)]
    for i in range(n):
        for j in range(i):
            row = np.zeros(n)
            row[i], row[j] = 1, -1
            rows.append(np.sqrt(affinity[i, j]) * row[None])
    target = np.concatenate([np.zeros(n), np.sqrt(foreground), np.zeros(n * (n - 1) // 2)])
    expected = np.linalg.lstsq(np.concatenate(rows), target, rcond=None)[0]
    assert rbd.optimise(affinity, foreground, background) == pytest.approx(expected, abs=1e-5)


def test_otsu_of_two_groups():
    values = np.concatenate([np.full(30, 0.2), np.full(10, 0.8)])
    assert np.array_equal(rbd.above_otsu(values) > 0, values > 0.5)
    assert np.array_equal(rbd.above_otsu(np.full(5, 0.4)), np.full(5, 0.4))


def test_finds_the_box():
    found = rbd.saliency(boxed())
    assert found[45:75, 65:95].min() > 0.9 and found[:30].max() < 0.1
