"""The batch stage: same bytes whatever the workers and interruptions, odd images, changed input,
bad input."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.cache.reader import Cache
from data.cache.shard import STATUS
from data.cli import UsageError
from data.sources.folder import Folder
from preprocess.build import build
from preprocess.recipe import Recipe

RBD = Recipe("rbd", (), 32)


def content(folder: Path) -> dict[str, bytes]:
    return {
        p.name: p.read_bytes()
        for p in sorted(folder.iterdir())
        if not p.name.startswith((".", "log."))
    }


@pytest.fixture(scope="module")
def rbd_cache(images) -> Path:
    build(str(images / "train"), str(images / "cache-rbd"), RBD, shard_size=30)
    return images / "cache-rbd"


def test_one_and_two_workers_give_the_same_bytes(images, rbd_cache, tmp_path):
    build(str(images / "train"), str(tmp_path / "two"), RBD, shard_size=30, workers=2)
    assert content(tmp_path / "two") == content(rbd_cache)
    assert set(content(rbd_cache)) == {
        "cache.json",
        "CHECKSUMS",
        "index.h5",
        *(f"shard-0000{i}.h5" for i in range(3)),
    }


def test_rbd_finds_the_discs(images, rbd_cache, truth_cache):
    rbd, truth = Cache(rbd_cache), Cache(truth_cache)
    found = np.stack([rbd.mask(i) for i in range(80)]) >= 128
    true = np.stack([truth.mask(i) for i in range(80)]) >= 128
    overlap = (found & true).sum((1, 2)) / (found | true).sum((1, 2))
    assert np.median(overlap) > 0.7


def test_a_second_run_has_nothing_to_do_and_reads_no_image(images, rbd_cache, monkeypatch):
    monkeypatch.setattr(
        "data.sources.folder.Folder.read", lambda *_: pytest.fail("an image was read")
    )
    assert build(str(images / "train"), str(rbd_cache), RBD, shard_size=30).computed == 0


def test_a_lost_or_cut_shard_alone_is_made_anew(images, rbd_cache, tmp_path):
    folder = Path(shutil.copytree(rbd_cache, tmp_path / "cache"))
    (folder / "shard-00000.h5").unlink()
    shard = folder / "shard-00002.h5"
    shard.write_bytes(shard.read_bytes()[:3000])
    assert build(str(images / "train"), str(folder), RBD, shard_size=30).computed == 30 + 20
    assert content(folder) == content(rbd_cache)


def test_killed_at_any_moment_it_continues_to_the_same_bytes(images, rbd_cache, tmp_path):
    folder = tmp_path / "cache"
    command = [
        sys.executable,
        "-m",
        "preprocess",
        str(images / "train"),
        str(folder),
        "--estimator",
        "rbd",
        "--side",
        "32",
        "--shard-size",
        "30",
        "--workers",
        "1",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while (
        not list(folder.glob("shard-*.h5"))
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for path in folder.glob("shard-*.h5"):  # whatever has a final name is whole
        assert path.read_bytes() == (rbd_cache / path.name).read_bytes()
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert content(folder) == content(rbd_cache)


def test_images_that_fail_keep_their_row_and_never_stop_the_run(shared, tmp_path):
    build(str(shared / "odd_images"), str(tmp_path / "cache"), RBD)
    cache = Cache(tmp_path / "cache")
    status = dict(
        zip([os.fsdecode(p) for p in cache.paths.tolist()], cache.status.tolist(), strict=True)
    )
    assert len(status) == 19
    assert status["empty.jpg"] == STATUS["empty"] and status["text.jpg"] == STATUS["unreadable"]
    assert (
        status["bomb_30000x30000.png"] == STATUS["too_large"]
        and status["truncated.jpg"] == STATUS["truncated"]
    )
    usable = {
        "rgba.png",
        "grey16.png",
        "truncated_by_20_bytes.jpg",
        "cmyk.jpg",
        "one_pixel.png",
        "sliver.png",
        "flat.png",
        "name with spaces ünïcode.jpg",
        "webp_image.webp",
        "bitmap.bmp",
    }
    assert all(status[name] == 0 for name in usable)
    for row in np.flatnonzero(cache.status):
        assert not cache.mask(row).any()


def test_an_estimator_that_fails_costs_one_row(images, tmp_path, monkeypatch):
    from preprocess import recipe as blocks

    real = blocks.load

    class Fails:
        calls = 0

        def working(self, image):
            Fails.calls += 1
            if Fails.calls == 3:
                raise FloatingPointError("boom")
            return real(RBD).working(image)

    monkeypatch.setattr(blocks, "load", lambda recipe: Fails())
    rows = blocks.compute_block(
        Folder(str(images / "train"), np.array([b"class0/000.png"] * 4)), RBD
    )
    assert rows["status"].tolist() == [0, 0, STATUS["estimator"], 0]


def test_maps_from_files(images, tmp_path):
    partial = tmp_path / "maps" / "class0"
    partial.mkdir(parents=True)
    shutil.copy(images / "masks" / "class0" / "000.png", partial)
    build(
        str(images / "train"),
        str(tmp_path / "cache"),
        Recipe("files", (), 32, str(tmp_path / "maps")),
    )
    cache = Cache(tmp_path / "cache")
    assert cache.status[0] == 0 and (cache.status[1:] == STATUS["no_map"]).all()
    assert 0 < (cache.mask(0) >= 128).mean() < 0.5


def test_changed_input_is_noticed(images, tmp_path):
    root = Path(shutil.copytree(images / "train", tmp_path / "train"))
    recipe = Recipe("files", (), 32, str(images / "masks"))
    build(str(root), str(tmp_path / "cache"), recipe, shard_size=30)
    os.utime(root / "class0" / "000.png")  # touched, but the same: nothing to compute
    assert build(str(root), str(tmp_path / "cache"), recipe, shard_size=30).computed == 0
    cv2.imwrite(str(root / "class0" / "000.png"), np.zeros((9, 9, 3), np.uint8))
    assert build(str(root), str(tmp_path / "cache"), recipe, shard_size=30).computed == 1
    (root / "class0" / "000.png").unlink()
    outcome = build(str(root), str(tmp_path / "cache"), recipe, shard_size=30)
    assert outcome.computed == 0 and len(Cache(tmp_path / "cache")) == 79


def test_other_parameters_are_another_cache(images, rbd_cache):
    before = content(rbd_cache)
    for recipe, size in ((Recipe("rbd", (), 48), 30), (Recipe("spectral", (), 32), 30), (RBD, 31)):
        with pytest.raises(UsageError, match="made with other parameters"):
            build(str(images / "train"), str(rbd_cache), recipe, shard_size=size)
    assert content(rbd_cache) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{images}/nope", "{out}"], "nope: no such folder of images"),
        (["{empty}", "{out}"], "no images"),
        (
            ["{images}/train", "{out}", "--estimator", "magic"],
            "no estimator 'magic'; there are: auto",
        ),
        (["{images}/train", "{images}"], "no cache.json; choose an empty folder"),
        (["{images}/train", "{out}", "--estimator", "files"], "needs --maps FOLDER"),
        (["{images}/train", "{out}", "--side", "0"], "--side must be at least 8"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(images, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    places = {"images": images, "empty": tmp_path / "empty", "out": tmp_path / "out"}
    done = subprocess.run(
        [sys.executable, "-m", "preprocess", *(a.format(**places) for a in arguments)],
        capture_output=True,
        text=True,
    )
    errors = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2 and len(errors) == 1 and message in errors[0], done.stderr
