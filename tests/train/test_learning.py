"""MoCo v2 learns: its features beat those of the untrained network by far (slow)."""

import subprocess
import sys

import pytest

from evaluate.common import Common
from evaluate.features import extract, load_encoder
from train.features import Labelled
from train.knn import accuracies


@pytest.mark.slow
def test_moco_v2_beats_random_features_by_far(tmp_path):
    """The demo's baseline: kNN (k = 200) on the test objects was 33 against 16 when this was
    written."""
    images, run = tmp_path / "images", tmp_path / "run"

    def call(*arguments: str) -> None:
        subprocess.run([sys.executable, "-m", *arguments], check=True)

    call("data", "synthetic", str(images), "--train", "6000", "--probe", "60", "--test", "1000")
    call("train", str(images / "train"), "--preset", "moco_v2_demo", "--out", str(run))

    def accuracy(untrained: bool) -> float:
        encoder = load_encoder(Common(str(run), device="cpu", untrained=untrained))
        parts = [Labelled(str(images / name), encoder.size) for name in ("train", "original")]
        points = [(extract(encoder, part), part.labels) for part in parts]
        return accuracies(*points, (200,), 0.07, len(parts[0].classes))[0]

    assert accuracy(untrained=False) > accuracy(untrained=True) + 0.1
