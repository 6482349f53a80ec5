"""Numerics of estimators against exact, brute-force and independent ones, and answers by hand."""

import itertools

import cv2
import numpy as np
import pytest
from scipy.ndimage import label
from scipy.sparse.csgraph import csgraph_from_dense, floyd_warshall
from skimage.morphology import reconstruction

from preprocess.estimators import gs, mc, mr, rbd
from preprocess.vision import barrier, cuts, mixture, morphology
from preprocess.vision import regions as graph
from preprocess.vision.pixels import lab_planes, min_max
from preprocess.vision.superpixels import slic


def test_minimum_cut_is_the_best_of_all_sets():
    rng, n = np.random.default_rng(0), 8
    sets = np.array(list(itertools.product([False, True], repeat=n)))
    apart = sets[:, :, None] != sets[:, None]
    for _ in range(40):
        cost = np.triu(rng.random((n, n)) * (rng.random((n, n)) < 0.4), 1)
        cost, gain, certain = cost + cost.T, rng.normal(size=n), rng.choice([0, 0, 0, 1, -1], n)
        chosen = cuts.minimum_cut(gain, cuts.Links.of(cost), 1.0, certain)
        values = sets @ gain - (cost * apart).sum((1, 2)) / 2
        allowed = (sets >= (certain == 1)).all(1) & (sets <= (certain >= 0)).all(1)
        found = (sets == chosen).all(1)
        assert allowed[found].all()
        assert values[found] == pytest.approx(values[allowed].max(), abs=0.1)  # of 1 / 256


def test_mixture_likelihood_is_the_formula():
    rng = np.random.default_rng(0)
    groups = rng.normal((20, 0, 0), 3, (80, 3)), rng.normal((70, 20, 10), 5, (80, 3))
    colours = np.concatenate(groups)
    model = mixture.fit(colours, np.ones(160), components=2)
    assert sorted(np.round(model[:, 1])) == pytest.approx([20, 70], abs=1.5)
    expected = np.zeros(160)
    for row in model:
        offset = colours - row[1:4]
        squares = np.einsum("ni,ij,nj->n", offset, row[4:].reshape(3, 3), offset)
        expected += np.exp(row[0] - 0.5 * squares)
    assert mixture.log_likelihood(colours, model) == pytest.approx(np.log(expected))


def exact_barrier(plane):
    """The least high - low such that the pixels between them connect a pixel to the border."""
    best = np.full(plane.shape, np.inf)
    border = np.ones(plane.shape, bool)
    border[1:-1, 1:-1] = False
    values = np.unique(plane)
    for low in values:
        for high in values[values >= low]:
            parts, _ = label((plane >= low) & (plane <= high))
            reached = np.isin(parts, parts[border & (parts > 0)])
            best[reached] = np.minimum(best[reached], float(high) - low)
    return best


def test_barrier_distance_is_near_the_exact_one():
    plateau = np.full((30, 40), 50, np.uint8)
    plateau[10:20, 10:30] = 200
    plateau[13:17, 15:25] = 120  # the wall must be crossed
    noise = np.random.default_rng(0).integers(0, 256, (30, 36)).astype(np.uint8)
    for plane, error in ((plateau, 0), (cv2.GaussianBlur(noise, (0, 0), 2) // 4 * 4, 0.05)):
        distance = barrier.minimum_barrier(np.stack([plane] * 3, 2)) / 3
        exact = exact_barrier(plane)
        assert (distance >= exact - 1e-6).all()  # the raster passes give an upper bound
        assert np.abs(distance - exact).mean() <= error * exact.max()


def test_reconstruction_equals_scikit_images():
    noise = np.random.default_rng(0).integers(0, 256, (50, 70)).astype(np.uint8)
    mask = cv2.GaussianBlur(noise, (0, 0), 1.5)
    marker = cv2.erode(mask, np.ones((7, 7), np.uint8))
    expected = reconstruction(marker, mask, method="dilation", footprint=np.ones((3, 3)))
    assert np.array_equal(morphology.reconstruct(marker, mask), expected)


@pytest.mark.parametrize("shape", [(192, 256), (64, 64), (100, 250)])
def test_about_two_hundred_connected_superpixels_along_edges_none_small_nor_huge(shape):
    coarse = np.random.default_rng(0).integers(0, 200, (9, 12, 3), np.uint8)
    picture = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    labels, count = slic(lab_planes(picture))
    assert labels.shape == shape and np.array_equal(np.unique(labels), np.arange(count))
    assert 170 <= count <= 230
    assert all(label(labels == k)[1] == 1 for k in range(count))  # 4-connected
    sizes, mean = np.bincount(labels.ravel()), labels.size / 200
    assert sizes.min() > mean / 4 * 0.9 and sizes.max() < 4 * mean
    halves = np.zeros((*shape, 3), np.uint8)
    halves[:, 30:] = 255
    labels, _ = slic(lab_planes(halves))
    assert not np.intersect1d(labels[:, :30], labels[:, 30:]).size


def test_paths_equal_scipys_and_those_beyond_the_limit_are_beyond_it():
    rng = np.random.default_rng(0)
    edge = np.maximum(rng.random((60, 60)) - 0.4, 0)
    edge = np.where(rng.random((60, 60)) < 0.05, edge, np.inf)
    edge = np.minimum(edge, edge.T)
    edge[:3] = edge[:, :3] = np.inf
    edge[0, 1] = edge[1, 0] = 0  # a part of its own, by an edge that costs nothing
    expected = floyd_warshall(csgraph_from_dense(edge, null_value=np.inf), directed=False)
    assert expected[0, 1] == 0 and np.isinf(expected[0, 2])
    full = graph.shortest_paths(edge)
    assert np.allclose(full, expected, atol=1e-5)
    for limit in (0.0, 0.2, 0.4):
        found = graph.shortest_paths(edge, limit)
        near = full <= limit
        assert np.array_equal(found[near], full[near]) and (found[~near] > limit).all()


def test_two_ring_of_a_chain_and_gaussian_weights():
    apart = abs(np.arange(5)[:, None] - np.arange(5))
    assert np.array_equal(graph.two_ring(apart == 1), (apart == 1) | (apart == 2))
    weight = graph.gaussian(np.array([0.0, 2.0, 6.0, 6.1]), 2.0)
    assert weight == pytest.approx([1, np.exp(-0.5), np.exp(-4.5), 0])


def test_gs_leaves_an_object_at_the_border_out_of_the_background():
    image = np.full((120, 160, 3), (255, 0, 0), np.uint8)
    image[:60] = image[:, :70] = image[:, 90:] = 128
    parts = gs.GS().regions(image)
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
    # a chain a - b - c with self weights 1; a and its neighbour b are linked to a's absorbing copy
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
