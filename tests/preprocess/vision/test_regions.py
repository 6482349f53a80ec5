"""The region graph: known answers on small graphs and images."""

import numpy as np
import pytest
from scipy.sparse.csgraph import csgraph_from_dense, floyd_warshall

from preprocess.vision import regions as graph


def test_geodesics_equal_scipys_where_edges_cost_nothing():
    rng = np.random.default_rng(0)
    edge = np.maximum(rng.random((60, 60)) - 0.4, 0)
    edge = np.where(rng.random((60, 60)) < 0.05, edge, np.inf)
    edge = np.minimum(edge, edge.T)
    edge[:3] = edge[:, :3] = np.inf
    edge[0, 1] = edge[1, 0] = 0  # a part of its own, by an edge that costs nothing
    expected = floyd_warshall(csgraph_from_dense(edge, null_value=np.inf), directed=False)
    assert expected[0, 1] == 0 and np.isinf(expected[0, 2])
    assert np.allclose(graph.shortest_paths(edge), expected, atol=1e-5)
    target = rng.random(60) < 0.1
    assert np.allclose(graph.distance_to(edge, target), expected[:, target].min(1), atol=1e-5)


def test_paths_within_the_limit_are_exact_and_the_others_beyond_it():
    rng = np.random.default_rng(5)
    weight = rng.random((60, 60)).astype(np.float32)
    weight = np.where(rng.random((60, 60)) < 0.1, weight, np.inf)
    edge = np.minimum(weight, weight.T)
    full = graph.shortest_paths(edge)
    for limit in (0.0, 0.2, 0.4):
        found = graph.shortest_paths(edge, limit)
        near = full <= limit
        assert np.array_equal(found[near], full[near]) and (found[~near] > limit).all()
        assert (found != full).any() and np.array_equal(found, found.T)


def test_two_ring_of_a_chain():
    chain = np.eye(5, k=1, dtype=bool) | np.eye(5, k=-1, dtype=bool)
    near = graph.two_ring(chain)
    distance = abs(np.arange(5)[:, None] - np.arange(5))
    assert np.array_equal(near, (distance == 1) | (distance == 2))


def test_gaussian_weights():
    weight = graph.gaussian(np.array([[0.0, 2.0, 6.0, 6.1]]), 2.0)
    assert weight == pytest.approx(np.array([[1, np.exp(-0.5), np.exp(-4.5), 0]]))
    assert np.array_equal(graph.gaussian(np.array([[0.0, 1.0]]), 0.0), [[1, 0]])


def test_regions_of_two_halves():
    image = np.zeros((120, 160, 3), np.uint8)
    image[:, 80:] = (255, 0, 0)
    parts = graph.regions(image)
    dark = parts.lab[:, 0] < 1
    assert parts.size.sum() == 120 * 160
    assert np.allclose(parts.lab[dark], 0, atol=0.5)
    assert np.allclose(parts.lab[~dark], (53.2, 80.1, 67.2), atol=0.5)  # sRGB red
    assert (parts.position[dark, 1] < 0.5).all() and (parts.position[~dark, 1] > 0.5).all()
    assert np.array_equal(parts.adjacent, parts.adjacent.T) and not parts.adjacent.diagonal().any()
    assert parts.sides[2][dark].any() and not parts.sides[2][~dark].any()
    assert (parts.sides.any(0) <= parts.border).all()
    painted = parts.paint(dark.astype(float))
    assert painted.shape == (120, 160) and painted[:, :80].all() and not painted[:, 80:].any()
