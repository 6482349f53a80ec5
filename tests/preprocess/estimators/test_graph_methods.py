"""The graph methods, MB+ and FT, stage by stage, against answers known beforehand."""

import numpy as np
import pytest

from preprocess.estimators import gs, load, mc, mr, rbd
from preprocess.vision import regions as graph
from preprocess.vision.pixels import min_max


def boxed(rows=slice(40, 80), columns=slice(60, 100)):
    """A red box on grey, 120 x 160."""
    image = np.full((120, 160, 3), 128, np.uint8)
    image[rows, columns] = (200, 30, 30)
    return image


@pytest.mark.parametrize("name", ["gs", "mc", "mr", "rbd", "sf"])
def test_graph_methods_find_the_box(name):
    parts = graph.regions(boxed())
    values = load(name).solve(parts)
    red = parts.lab[:, 1] > 40
    assert values.min() >= 0 and values.max() <= 1
    assert values[red].min() > 0.8 and values[~red].max() < 0.3


def test_gs_leaves_an_object_at_the_border_out_of_the_background():
    parts = graph.regions(boxed(slice(60, 120), slice(70, 90)))
    red, chosen = parts.lab[:, 1] > 40, gs.background(parts)
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
    assert mc.absorbed_time(weight, np.array([True, False, False])) == pytest.approx(
        min_max(time), abs=1e-6
    )


def test_ft_is_the_squared_distance_to_the_mean_colour():
    image = np.full((64, 64, 3), 100, np.uint8)
    image[16:48, 16:48] = 200
    saliency = load("ft")(image)
    assert saliency[32, 32] == pytest.approx(1, abs=0.02) and saliency[2, 2] < 0.2


@pytest.mark.parametrize(("box", "touches"), [((), False), ((slice(50), slice(160)), True)])
def test_boundary_connectivity_tells_a_region_inside_from_one_at_the_border(box, touches):
    parts = graph.regions(boxed(*box))
    linked, scale = parts.adjacent | parts.clique, graph.scales(parts)
    found = rbd.boundary_connectivity(parts.colour, linked, parts.border, scale)
    red = parts.lab[:, 1] > 40
    assert found[red].min() > 2 if touches else found[red].max() < 0.1
    assert found[~red].min() > 2


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
    pairs = [(i, j) for i in range(n) for j in range(i)]
    links = np.zeros((len(pairs), n))
    for row, (i, j) in zip(links, pairs, strict=True):
        row[i] = np.sqrt(affinity[i, j])
        row[j] = -row[i]
    rows = np.diag(np.sqrt(background)), np.diag(np.sqrt(foreground)), links
    target = np.concatenate([np.zeros(n), np.sqrt(foreground), np.zeros(len(pairs))])
    expected = np.linalg.lstsq(np.concatenate(rows), target, rcond=None)[0]
    assert rbd.optimise(affinity, foreground, background) == pytest.approx(expected, abs=1e-5)


def test_otsu_of_two_groups():
    values = np.concatenate([np.full(30, 0.2), np.full(10, 0.8)])
    assert np.array_equal(rbd.above_otsu(values) > 0, values > 0.5)
    assert np.array_equal(rbd.above_otsu(np.full(5, 0.4)), np.full(5, 0.4))
