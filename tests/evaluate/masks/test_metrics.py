"""The metrics against pysodmetrics' own numbers, and against values worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from evaluate.masks.metrics import curves, nearest_foreground, score, summarise

FIXTURE = np.load(Path(__file__).parent / "fixtures" / "pysodmetrics.npz")
COUNT = sum(name.startswith("map") for name in FIXTURE.files)


def scored(*indices):
    return [score(FIXTURE[f"map{i}"], FIXTURE[f"truth{i}"]) for i in indices]


@pytest.mark.parametrize("index", range(COUNT))
def test_one_map_scores_as_the_reference(index):
    expected = dict(zip(FIXTURE["names"], FIXTURE[f"scores{index}"], strict=True))
    values = summarise(scored(index))
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-4)


def test_a_set_scores_as_the_reference():
    scores = scored(*range(COUNT))
    expected = dict(zip(FIXTURE["names"], FIXTURE["together"], strict=True))
    values = summarise(scores)
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    drawn = curves(scores)
    assert drawn["threshold"] == list(range(255, -1, -1))
    assert set(drawn) == {"threshold", *FIXTURE["curve_names"]}
    for name, curve in zip(FIXTURE["curve_names"], FIXTURE["curves"], strict=True):
        assert np.abs(np.array(drawn[name]) - curve).max() < 1e-4, name


def test_what_maps_of_one_image_share_changes_nothing():
    truth = FIXTURE["truth0"]
    alone, shared = (
        score(FIXTURE["map0"], truth, nearest).weighted_f
        for nearest in (None, nearest_foreground(truth))
    )
    assert alone == shared > 0.1


def test_a_false_alarm_weighs_more_the_farther_it_is():
    truth = np.zeros((60, 60), bool)
    truth[:20, :20] = True
    far, near = (truth.astype(np.uint8) * 255 for _ in range(2))
    far[50:55, 50:55] = near[21:26, 10:15] = 255
    assert score(far, truth).f[0] == pytest.approx(score(near, truth).f[0])  # sees no difference
    # 25 wrong pixels against 400, each weighed once, would give 2 * 400 / 825
    assert score(far, truth).weighted_f < score(near, truth).weighted_f < 2 * 400 / (800 + 25)


def test_the_two_conventions_of_maximum_f_differ():
    """Two maps right at different thresholds: each has a perfect one of its own, no threshold is
    perfect for both."""
    truth = np.zeros((10, 10), bool)
    truth[:5] = True
    low, high = np.where(truth, 100, 0).astype(np.uint8), np.where(truth, 255, 200).astype(np.uint8)
    low[0, 0] = high[-1, -1] = 0
    low[-1, -1] = 255
    values = summarise([score(low, truth), score(high, truth)])
    assert values["max_f_a"] != pytest.approx(values["max_f_b"], abs=1e-6)
