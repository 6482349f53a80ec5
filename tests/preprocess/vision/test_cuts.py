"""The minimum cut against brute force, colour mixtures against a plain formula, and both
together."""

import itertools

import numpy as np
import pytest

from preprocess.vision import cuts, mixture
from preprocess.vision.pixels import lab_planes


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
        # capacities are in 1 / 256
        assert values[found] == pytest.approx(values[allowed].max(), abs=0.1)


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


def test_grab_finds_the_object_from_a_rough_prior():
    image = np.full((120, 160, 3), (90, 140, 90), np.uint8)
    image[40:80, 60:110] = (200, 60, 40)
    noise = np.random.default_rng(0).normal(0, 5, image.shape)
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
    parts = cuts.cells(image, lab_planes(image))
    prior, truth = np.zeros((120, 160)), np.zeros((120, 160), bool)
    prior[30:90, 55:100] = 0.9  # too high, too far left, and part of the object missing
    truth[40:80, 60:110] = True
    found = cuts.grab(parts, parts.mean(prior), background=-1)[parts.labels] > 0.5
    assert (found & truth).sum() / (found | truth).sum() > 0.9


def test_grab_returns_the_prior_where_there_is_nothing_to_cut():
    image = np.full((40, 50, 3), 9, np.uint8)
    parts = cuts.cells(image, lab_planes(image))
    prior = np.full(len(parts.size), 0.2)
    assert np.array_equal(cuts.grab(parts, prior), prior)
