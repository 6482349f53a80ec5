"""The batch stage: odd images, estimators that fail, bad input."""

import json
import os
import shlex
import shutil

import cv2
import numpy as np
import pytest

from data.cache.shard import STATUS
from data.sources.base import Folder
from preprocess import recipe as blocks
from preprocess.estimators import Estimator
from tests.conftest import contents, data, one_line
from tests.preprocess.runs import inline, run


def test_an_estimator_that_fails_costs_one_row(images, monkeypatch):
    class Fails(Estimator):
        maps = iter([np.ones((9, 9)), np.full((9, 9), np.nan)])

        def working(self, image):
            return next(self.maps)

    monkeypatch.setattr(blocks, "load", lambda recipe: Fails())
    before, recipe = cv2.getNumThreads(), blocks.Recipe("rbd", (), 32)
    cv2.setNumThreads(3)
    three = Folder(str(images / "train"), np.array([b"class0/000.png"] * 3))
    rows = blocks.compute_block(three, recipe)
    assert cv2.getNumThreads() == 3  # the caller's, as before
    cv2.setNumThreads(before)
    assert rows["status"].tolist() == [0, STATUS["estimator"], STATUS["estimator"]]
    assert rows["mask"].any((1, 2)).tolist() == [True, False, False]


@pytest.mark.parametrize("options", ["--side 48", "--estimator ft", "--shard-size 31"])
def test_other_parameters_are_another_cache(images, whole, tmp_path, options):
    before = contents(whole)
    error = one_line(inline(images / "train", whole, *options.split()))
    assert "made with other parameters" in error and options.split()[1] in error
    assert contents(whole) == before
    unfinished = shutil.copytree(whole, tmp_path / "x", ignore=shutil.ignore_patterns("*.json"))
    done = inline(images / "train", unfinished, *options.split())
    other = options.startswith("--shard-size")  # whose rows are the same
    assert done.returncode == 0 if other else "unfinished cache made with other" in one_line(done)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{images}/nope {out}", "nope: no such folder of images"),
        ("'' {out}", "an argument: is empty; name it"),
        ("{images} {out} {network} --net_side=", "--net_side: is empty; name it"),
        ("{images} {out} --estimator magic", "no estimator 'magic'; there are: auto"),
        ("{images} {images}", "no cache.json; choose an empty folder"),
        ("{images} {out} --estimator files", "needs --maps FOLDER"),
        ("{images} {out} --estimator files --maps {images}", "maps lie among the images"),
        ("{images} {out} --side 0", "--side 0: must be at least 8"),
        ("{images} {out} --side 20000", "--side 20000: must be at most 16384"),
        ("{images} {out} --part=0/2", "must be I/N"),
        ("{images} {out} --estimator u2net", "no weights for u2net: put u2net.pth into $DILO"),
        ("{images} {out} --estimator rbd --device cuda", "--device is for networks (basnet"),
        ("{images} {out} --estimator rbd --net-side 8", "--net-side goes with --estimator onnx"),
        ("{images} {out} {network} --batch 0", "--batch 0: must be 1 to"),
        ("{images} {out} {network} --device cuda --dask tcp://x:1", "--part"),
        ("{images} {out} {network} --device cuda", "error: --device cuda: "),
    ],
)
def test_bad_input_is_one_line(images, weights, tmp_path, monkeypatch, arguments, message):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("DILO_WEIGHTS", "")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    network = f"--estimator u2netp --weights {weights}"
    places = {"images": images / "train", "out": tmp_path / "out", "network": network}
    done = inline(*shlex.split(arguments.format(**places)))
    assert message in one_line(done) and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_odd_names_and_the_lists_of_failures(root, tmp_path):
    shutil.copy(root / "class0" / "000.png", root / os.fsdecode(b"class0/\xff\xfe.png"))
    empty = root / os.fsdecode(b"class0/\xfe\n.png")
    empty.write_bytes(b"")
    outcome = run(root, tmp_path / "cache", workers=1)
    assert outcome.statuses == {"ok": 81, "empty": 1}
    assert (tmp_path / "cache" / "failures.tsv").read_bytes() == b"empty\tclass0/\xfe\\n.png\n"
    assert "empty      class0/" in data("info", tmp_path / "cache").stdout
    lines = (tmp_path / "cache" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["start", *["shard"] * 5, "end"]
    empty.unlink()
    run(root, tmp_path / "cache")
    assert not (tmp_path / "cache" / "failures.tsv").exists()
