"""The graph methods and their region graph, stage by stage, against answers known beforehand."""

import numpy as np
import pytest

from preprocess.estimators import gs, mc, mr, rbd
from preprocess.vision import regions as graph
from preprocess.vision.pixels import min_max


def test_gs_leaves_an_object_at_the_border_out_of_the_background():
    image = np.full((120, 160, 3), (255, 0, 0), np.uint8)
    image[:60] = image[:, :70] = image[:, 90:] = 128
    parts = graph.regions(image)
    red, chosen = parts.lab[:, 1] > 40, gs.background(parts)
    assert np.allclose(parts.lab[red], (53.2, 80.1, 67.2), atol=0.5)  # sRGB red
    assert np.array_equal(parts.paint(red), image[..., 1] == 0)
    assert (red & parts.border).any() and not chosen[red].any()
    assert chosen[parts.border & ~red].all()


def test_mr_rank_equals_the_closed_form():
    weight = np.array([[0, 1, 0.5], [1, 0, 0], [0.5, 0, 0]])
    full = np.linalg.inv(np.diag([1.5, 1, 0.5]) - 0.99 * weight)
    assert mr.ranking_matrix(weight) == pytest.approx(full - np.diag(np.diag(full)), rel=1e-3)


def test_mc_absorbed_time_equals_a_simulated_walk():
    # A chain a - b - c with self weights 1; a is absorbing: a and its neighbour b are also linked
    # to a's duplicate.
    weight = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1.0]])
    step = np.array([[1 / 3, 1 / 3, 0], [1 / 4, 1 / 4, 1 / 4], [0, 1 / 2, 1 / 2]])
    time, alive = np.zeros(3), np.eye(3)
    for _ in range(3000):
        time += alive.sum(1)
        alive = alive @ step
    found = mc.absorbed_time(weight, np.array([True, False, False]))
    assert found == pytest.approx(min_max(time), abs=1e-6)


def test_boundary_connectivity_by_hand():
    # Four patches of one colour, two of them on the border; another colour far away, not on it.
    colour = np.zeros((6, 6))
    colour[:4, 4:] = colour[4:, :4] = 100
    border = np.arange(6) < 2
    scale = graph.Scales(0, 10, 10)
    found = rbd.boundary_connectivity(colour, ~np.eye(6, dtype=bool), border, scale)
    assert found == pytest.approx([2 / 4**0.5] * 4 + [0, 0])


def test_optimum_equals_a_dense_solve_of_the_cost():
    rng, n = np.random.default_rng(3), 12
    affinity = np.triu(rng.random((n, n)) * (rng.random((n, n)) < 0.4), 1)
    foreground, background = rng.random(n), rng.random(n)
    # The cost as a least-squares problem: a row for each term, each w (s_i - s_j)^2 counted once.
    i, j = np.nonzero(affinity)
    links = np.sqrt(affinity[i, j])[:, None] * (np.eye(n)[i] - np.eye(n)[j])
    rows = np.diag(np.sqrt(background)), np.diag(np.sqrt(foreground)), links
    target = np.concatenate([np.zeros(n), np.sqrt(foreground), np.zeros(len(links))])
    expected = np.linalg.lstsq(np.concatenate(rows), target, rcond=None)[0]
    found = rbd.optimise(affinity + affinity.T, foreground, background)
    assert found == pytest.approx(expected, abs=1e-5)
