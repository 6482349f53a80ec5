"""One row for real, on a tiny data set: trained, measured, kept, and the same folder the second
time."""

import json
import shutil
import sys

import pytest

from data.cli import UsageError
from data.io import write_text
from data.synthetic.variants import VARIANTS
from experiments import runner
from experiments.challenge import challenge
from experiments.measure import measure
from experiments.results import gather
from experiments.rows import BASE, DILO, rows_of
from experiments.settings import Data, imagenette, row
from experiments.table import main
from experiments.tables import text

TINY = Data("embedded", 1, images=(140, 40, 40))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("experiments")


def test_rows_are_trained_measured_and_kept(out, monkeypatch):
    images = runner.prepare(TINY, out)
    found = runner.run_row(BASE, TINY, 0, out, images)
    assert found["seed"] == 0 and "--seed 0" in found["command"] and found["commit"]
    assert 0 <= found["measured"]["knn"] <= 100 and "untrained" in found
    assert set(found["measured"]["backgrounds"]["biased"]) >= {"mixed_rand", "gap"}
    folder = out / BASE.folder(TINY) / "seed0"
    assert found["measured"] == measure(
        folder, TINY, images
    )  # from the weights alone, again the same
    monkeypatch.setattr(runner, "call", lambda *_: pytest.fail("it was run again"))
    assert runner.run_row(BASE, TINY, 0, out, images) == found


@pytest.mark.slow
def test_a_row_with_masks_has_its_cache_made(out):
    pasted = runner.run_row(DILO, TINY, 0, out, runner.prepare(TINY, out))
    assert "untrained" not in pasted and "masks-rbd-128" in pasted["command"]
    assert (out / "masks-rbd-128" / "cache.json").exists()


def test_a_row_that_cannot_be_run_here_says_so_and_stops_nothing(out, capsys, monkeypatch):
    monkeypatch.setenv("DILO_SHARED", str(out / "nowhere"))
    texture = row("rbd", background="texture", textures="{textures}")
    assert runner.run_row(texture, TINY, 0, out, out) is None
    assert "no textures; set DILO_SHARED" in capsys.readouterr().out


def test_small_copies_keep_paths_and_are_made_once(images, tmp_path):
    data = Data("imagenette", 1, stored=16, source=str(images))
    small = runner.prepare(data, tmp_path)
    assert len(list(small.rglob("*.png"))) == len(list(images.rglob("*.png")))
    write_text(small / "done", "as it was")
    assert runner.prepare(data, tmp_path) == small and (small / "done").read_text() == "as it was"


def test_photographs_are_given_other_backgrounds(out, tmp_path):
    scenes = runner.prepare(TINY, out)
    for ours, theirs in (("train", "train"), ("val", "original")):
        shutil.copytree(scenes / theirs, tmp_path / "source" / ours)
    data = Data("imagenette", 1, stored=24, source=str(tmp_path / "source"))
    out = tmp_path / "photographs"
    copies = runner.prepare(data, out)
    runner.run_row(BASE, data, 0, out, copies)
    challenge({"none": BASE, "rbd": DILO}, data, out, copies)
    told = text(gather("e2", rows_of("e2", "imagenette"), data, out, "x"))
    file = out / BASE.folder(data) / "seed0" / "result.json"
    found = json.loads(file.read_text())["measured"]["challenge"]
    assert set(found) == {*VARIANTS, "bg_gap"} and all(0 <= found[v] <= 100 for v in VARIANTS)
    assert found["bg_gap"] == pytest.approx(found["mixed_same"] - found["mixed_rand"])
    assert "mixed_next" in told
    before = file.stat().st_mtime_ns
    challenge({"none": BASE, "rbd": DILO}, data, out, copies)
    assert file.stat().st_mtime_ns == before


def test_bad_options_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("DILO_SHARED", str(tmp_path))
    for arguments, said in (
        (["--data", "imagenette"], "set DILO_SHARED"),
        (["--rows", "cat"], "--rows cat"),
        (["--epochs", "0"], "--epochs 0"),
        (["--seeds", "-1"], "--seeds -1"),
    ):
        monkeypatch.setattr(sys, "argv", ["e4", "--out", str(tmp_path / "out"), *arguments])
        with pytest.raises(UsageError, match=said):
            main("e4", "")
    assert imagenette(3).common == (("soften_sigma", "0.48"),)
