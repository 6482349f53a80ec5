"""The benchmark scripts: markers are filled and nothing else is touched; a small run gives every column."""

import json
import sys

import cv2
import numpy as np

from benchmarks import saliency, speed
from benchmarks.readme import fill


def test_fill_replaces_only_the_block(tmp_path):
    file = tmp_path / "README.md"
    file.write_text("before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter\n"
                    "<!-- other:begin --><!-- other:end -->")
    assert fill(file, "bench", "new\ntable")
    assert file.read_text() == ("before\n<!-- bench:begin -->\nnew\ntable\n<!-- bench:end -->\nafter\n"
                                "<!-- other:begin --><!-- other:end -->")
    assert fill(file, "bench", "newer") and "new\ntable" not in file.read_text()
    assert not fill(file, "missing", "x") and not fill(tmp_path / "none.md", "bench", "x")


def test_speed(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for index in range(2):
        cv2.imwrite(str(tmp_path / f"{index}.jpg"), rng.integers(0, 256, (90, 120, 3), np.uint8))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    out = tmp_path / "bench" / "speed.json"
    monkeypatch.setattr(sys, "argv", ["speed", "--images", str(tmp_path), "--estimator", "rbd,ft", "--repeats", "1",
                                      "--json", str(out), "--readme", str(tmp_path / "none.md")])
    assert speed.main() == 0
    result = json.loads(out.read_text())
    assert result["count"] == 2 and result["failed"] == 1 and set(result["estimators"]) == {"rbd", "ft"}
    assert set(result["stages"]) == {"decode", "resize", "frame", "superpixels", "graph", "solve", "write"}
    assert "| `rbd` |" in capsys.readouterr().out


def test_losses_against_the_authors_are_listed():
    entries = {name: dict(zip(saliency.METRICS, row, strict=True)) for name, row in saliency.AUTHORS.items()}
    assert saliency.worse(entries) == []
    entries["rbd"]["mae"] += 0.02
    entries["mr"]["s"] -= 0.02
    assert [(name, metric) for name, metric, _ in saliency.worse(entries)] == [("rbd", "mae"), ("mr", "s")]
