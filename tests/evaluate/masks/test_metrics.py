"""The metrics against pysodmetrics' own numbers; agreement by hand."""

from pathlib import Path

import numpy as np
import pytest

from evaluate.masks.agreement import agreement
from evaluate.masks.metrics import curves, nearest_foreground, score, summarise

FIXTURE = np.load(Path(__file__).parent / "fixtures" / "pysodmetrics.npz")
MAPS = [(FIXTURE[f"map{i}"], FIXTURE[f"truth{i}"]) for i in range(14)]
SETS = {f"scores{i}": [pair] for i, pair in enumerate(MAPS)} | {"together": MAPS}


@pytest.mark.parametrize("name", SETS)
def test_scores_are_the_references(name):
    values = summarise([score(*pair) for pair in SETS[name]])
    expected = dict(zip(FIXTURE["names"], FIXTURE[name], strict=True))
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    shared = [score(*pair, nearest_foreground(pair[1])) for pair in SETS[name]]
    assert summarise(shared) == values


def test_curves_are_the_references():
    drawn = curves([score(*pair) for pair in MAPS])
    assert drawn.pop("threshold") == list(range(255, -1, -1))
    assert np.allclose([drawn[name] for name in FIXTURE["curve_names"]], FIXTURE["curves"], 0, 1e-4)


def test_agreement_by_hand():
    mask, truth, empty = np.array([[255, 255, 0, 0], [255, 51, 0, 0], 4 * [0]], np.uint8)
    found = agreement([(mask, truth), (empty, empty)])
    assert found == pytest.approx({"mae": 0.1, "iou": 0.75})
