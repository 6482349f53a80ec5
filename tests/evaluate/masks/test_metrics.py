"""The metrics against pysodmetrics' own numbers, and against values worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from evaluate.masks.metrics import curves, nearest_foreground, score, summarise

FIXTURE = np.load(Path(__file__).parent / "fixtures" / "pysodmetrics.npz")
COUNT = sum(name.startswith("map") for name in FIXTURE.files)


@pytest.mark.parametrize("index", range(COUNT))
def test_one_map_scores_as_the_reference(index):
    mine = summarise([score(FIXTURE[f"map{index}"], FIXTURE[f"truth{index}"])])
    for name, value in zip(FIXTURE["names"], FIXTURE[f"scores{index}"], strict=True):
        assert mine[name] == pytest.approx(value, abs=1e-4), name


def test_a_set_scores_as_the_reference():
    mine = summarise([score(FIXTURE[f"map{i}"], FIXTURE[f"truth{i}"]) for i in range(COUNT)])
    for name, value in zip(FIXTURE["names"], FIXTURE["together"], strict=True):
        assert mine[name] == pytest.approx(value, abs=1e-4), name


def test_curves_are_the_references():
    mine = curves([score(FIXTURE[f"map{i}"], FIXTURE[f"truth{i}"]) for i in range(COUNT)])
    assert mine["threshold"] == list(range(255, -1, -1)) and set(mine) == {
        "threshold",
        *FIXTURE["curve_names"],
    }
    for name, values in zip(FIXTURE["curve_names"], FIXTURE["curves"], strict=True):
        assert np.abs(np.array(mine[name]) - values).max() < 1e-4, name


def test_what_maps_of_one_image_share_changes_nothing():
    truth = FIXTURE["truth0"]
    mine = [
        score(FIXTURE["map0"], truth, nearest).weighted_f
        for nearest in (None, nearest_foreground(truth))
    ]
    assert mine[0] == mine[1] > 0.1


def test_a_false_alarm_weighs_more_the_farther_it_is():
    truth = np.zeros((60, 60), bool)
    truth[:20, :20] = True
    far, near = (truth.astype(np.uint8) * 255 for _ in range(2))
    far[50:55, 50:55] = near[21:26, 10:15] = 255
    assert score(far, truth).f[0] == pytest.approx(
        score(near, truth).f[0]
    )  # the plain measure sees no difference
    # 25 wrong pixels against 400: weighed once each they would give 2 * 400 / 825 of the harmonic
    # mean
    assert score(far, truth).weighted_f < score(near, truth).weighted_f < 2 * 400 / (800 + 25)


def test_a_perfect_map():
    truth = np.zeros((20, 30), bool)
    truth[5:15, 8:20] = True
    mine = summarise([score(truth.astype(np.uint8) * 255, truth)])
    assert mine["mae"] == 0
    assert mine["max_f_a"] == mine["max_f_b"] == mine["adaptive_f"] == pytest.approx(1)
    assert mine["s"] == pytest.approx(1, abs=1e-6)


def test_the_two_conventions_differ():
    # Two maps right at different thresholds: each has a perfect one of its own, no threshold is
    # perfect for both.
    truth = np.zeros((10, 10), bool)
    truth[:5] = True
    low, high = np.where(truth, 100, 0).astype(np.uint8), np.where(truth, 255, 200).astype(np.uint8)
    low[0, 0] = high[-1, -1] = 0
    low[-1, -1] = 255
    mine = summarise([score(low, truth), score(high, truth)])
    assert mine["max_f_a"] != pytest.approx(mine["max_f_b"], abs=1e-6)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="against a truth"):
        score(np.zeros((3, 3), np.uint8), np.zeros((3, 4), bool))
    with pytest.raises(ValueError, match="uint8"):
        score(np.zeros((3, 3)), np.zeros((3, 3), bool))
