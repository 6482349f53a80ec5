"""The batch stage: same bytes whatever the workers, odd images, maps from files, bad input."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.cache.reader import Cache
from data.cache.shard import STATUS
from data.cli import UsageError
from data.sources.base import Folder
from preprocess import recipe as blocks
from preprocess.estimators import Estimator
from preprocess.pipeline import build
from preprocess.recipe import Recipe, compute_block
from tests.preprocess.runs import command, content, data, inline, one_line, run, shard

RBD = Recipe("rbd", (), 32)


@pytest.fixture(scope="module")
def rbd_cache(images) -> Path:
    build(str(images / "train"), str(images / "cache-rbd"), RBD, shard_size=30)
    return images / "cache-rbd"


def test_one_and_two_workers_give_the_same_bytes(images, rbd_cache, tmp_path):
    build(str(images / "train"), str(tmp_path / "two"), RBD, shard_size=30, workers=2)
    assert content(tmp_path / "two") == content(rbd_cache)
    shards = {shard(rbd_cache, number).name for number in range(3)}
    assert set(content(rbd_cache)) == {"cache.json", "CHECKSUMS", "index.h5", *shards}


def test_images_that_fail_keep_their_row_and_never_stop_the_run(shared, tmp_path):
    build(str(shared / "odd_images"), str(tmp_path / "cache"), RBD)
    cache = Cache(tmp_path / "cache")
    names = [os.fsdecode(path) for path in cache.paths.tolist()]
    status = dict(zip(names, cache.status.tolist(), strict=True))
    assert len(status) == 19
    expected = {
        "empty.jpg": "empty",
        "text.jpg": "unreadable",
        "bomb_30000x30000.png": "too_large",
        "truncated.jpg": "truncated",
    }
    usable = """rgba.png grey16.png truncated_by_20_bytes.jpg cmyk.jpg one_pixel.png sliver.png
        flat.png webp_image.webp bitmap.bmp"""
    for name in [*usable.split(), "name with spaces ünïcode.jpg"]:
        expected[name] = "ok"
    assert {name: status[name] for name in expected} == {n: STATUS[s] for n, s in expected.items()}
    assert not any(cache.mask(row).any() for row in np.flatnonzero(cache.status))


def test_an_estimator_that_fails_costs_one_row(images, monkeypatch):
    class Fails(Estimator):
        calls = 0

        def working(self, image):
            Fails.calls += 1
            if Fails.calls == 3:
                raise FloatingPointError("boom")
            return np.ones((9, 9), np.float32)

    monkeypatch.setattr(blocks, "load", lambda recipe: Fails())
    rows = compute_block(Folder(str(images / "train"), np.array([b"class0/000.png"] * 4)), RBD)
    assert rows["status"].tolist() == [0, 0, STATUS["estimator"], 0]


def test_opencvs_threads_are_the_callers_afterwards(images):
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(3)
        compute_block(Folder(str(images / "train"), np.array([b"class0/000.png"])), RBD)
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


def test_other_parameters_are_another_cache(images, whole):
    before = content(whole)
    for options in (["--side", "48"], ["--estimator", "ft"], ["--shard-size", "31"]):
        error = one_line(inline(*command(images / "train", whole)[3:-2], *options))
        assert "made with other parameters" in error and options[1] in error
    assert content(whole) == before
    with pytest.raises(UsageError, match="made with other parameters"):
        build(str(images / "train"), str(whole), RBD, shard_size=20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{images}/nope {out}", "nope: no such folder of images"),
        ("{empty} {out}", "no images"),
        ("{images}/train {out} --estimator magic", "no estimator 'magic'; there are: auto"),
        ("{images}/train {images}", "no cache.json; choose an empty folder"),
        ("{images}/train {out} --estimator files", "needs --maps FOLDER"),
        ("{images}/train {out} --side 0", "--side must be at least 8"),
        ("{images}/train {out} --part=0/2", "must be I/N"),
        ("{images}/train {out} --part=3/2", "must be I/N"),
        ("{images}/train {out} --part=-1/2", "must be I/N"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(images, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    places = {"images": images, "empty": tmp_path / "empty", "out": tmp_path / "out"}
    done = inline(*arguments.format(**places).split())
    assert message in one_line(done) and len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_names_that_are_no_utf8(root, tmp_path):
    shutil.copy(root / "class0" / "000.png", root / os.fsdecode(b"class0/\xff\xfe.png"))
    (root / os.fsdecode(b"class0/\xfe.png")).write_bytes(b"")
    outcome = run(root, tmp_path / "cache", workers=1)
    assert outcome.statuses == {"ok": 81, "empty": 1}
    assert (tmp_path / "cache" / "failures.tsv").read_bytes() == b"empty\tclass0/\xfe.png\n"
    done = data("info", tmp_path / "cache")
    assert done.returncode == 0 and "empty      class0/" in done.stdout
