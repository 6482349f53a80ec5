"""The curve over the number of training images: every run is scored with its own weights, on odd numbers only."""

import json
import sys

import cv2
import pytest

from benchmarks import selftaught
from tests.conftest import scene


@pytest.mark.slow
def test_the_curve_has_a_row_a_run_and_fusion(tmp_path, monkeypatch):
    for i in range(12):
        image, mask = scene(i)
        for folder, name, picture in (("train", f"{i}.png", image), ("ecssd/images", f"{i:04d}.png", image),
                                      ("ecssd/masks", f"{i:04d}.png", mask)):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / name), picture)
    docs = tmp_path / "docs.md"
    docs.write_text("<!-- bench-selftaught:begin -->\n<!-- bench-selftaught:end -->\n")
    monkeypatch.setenv("DILO_WEIGHTS", "")  # what the command sets is undone with it
    monkeypatch.setattr(sys, "argv", ["x", "--images", str(tmp_path / "train"), "--ecssd", str(tmp_path / "ecssd"),
                                      "--limits", "4", "8", "--steps", "3", "--out", str(tmp_path / "runs"),
                                      "--json", str(tmp_path / "curve.json"), "--docs", str(docs)])
    assert selftaught.main() == 0
    result = json.loads((tmp_path / "curve.json").read_text())
    assert [r["images"] for r in result["runs"]] == [4, 8]
    assert result["runs"][0]["sha256"] != result["runs"][1]["sha256"]
    assert result["runs"][0]["mae"] != result["runs"][1]["mae"]
    assert "| 4 images |" in docs.read_text() and "`fusion`" in docs.read_text()
