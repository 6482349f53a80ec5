"""The demo end to end, tiny, and its table."""

import json
import subprocess
import sys

import numpy as np
import pytest

from data.cache.reader import Cache
from evaluate.backgrounds.variants import SPLITS
from evaluate.masks.agreement import mask_agreement
from evaluate.masks.gallery import overlay
from experiments.demo import ROWS, table


def test_table_has_every_row_and_number():
    rows = {
        row: {
            probe: {s: 10.0 * i + j for j, s in enumerate((*SPLITS, "gap"))}
            for probe in ("biased", "unbiased")
        }
        for i, row in enumerate(ROWS)
    }
    text = table({"rows": rows, "rbd_masks": {"mae": 0.1, "iou": 0.5}})
    assert text.count("| dilo-shuffled | 40.0 | 41.0 | 42.0 | 43.0 | 44.0 | 45.0 |") == 2
    assert "IoU 0.50" in text


def test_mask_agreement_of_a_cache_with_itself(truth_cache):
    cache = Cache(truth_cache)
    assert mask_agreement(cache, cache) == {"mae": 0.0, "iou": 1.0}


def test_overlay_keeps_the_foreground():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(overlay(image, np.full((8, 8), 255, np.uint8)), image)
    assert not np.array_equal(overlay(image, np.zeros((8, 8), np.uint8)), image)


@pytest.mark.slow
def test_demo_runs_end_to_end_and_again(tmp_path):
    out = tmp_path / "demo"
    command = [
        sys.executable,
        "-m",
        "experiments.demo",
        "--out",
        str(out),
        "--epochs",
        "1",
        "--train-images",
        "300",
        "--probe-images",
        "60",
        "--test-images",
        "60",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((out / "results.json").read_text())
    assert set(results["rows"]) == set(ROWS) and "| baseline |" in done.stdout
    assert (out / "demo.png").stat().st_size > 50_000
    before = {p: p.stat().st_mtime_ns for p in out.rglob("backbone.pt")}
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0 and {p: p.stat().st_mtime_ns for p in before} == before
