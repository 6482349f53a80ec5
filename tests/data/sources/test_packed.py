"""Packs of images: the folder's paths and bytes, resumed and repaired, and one line where
damaged."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time

import cv2
import h5py
import numpy as np
import pytest

from data.checksums import problems
from data.cli import UsageError
from data.io import lock
from data.sources.images import ImageError, decode, open_images
from data.sources.pack import Outcome, Settings, pack, smaller
from data.sources.packed import is_pack, shard_names
from data.synthetic.dataset import Scenes, make
from tests.train.runs import config
from train.loop import train
from train.presets import change

THIRTY = Settings(shard_size=30)


@pytest.fixture(scope="module")
def packed(images, tmp_path_factory):
    """80 small images, 30 a shard: byte for byte."""
    folder = tmp_path_factory.mktemp("pack") / "pack"
    assert pack(str(images / "train"), str(folder), THIRTY) == Outcome(80, 0)
    return folder


@pytest.fixture
def copy(packed, tmp_path):
    return shutil.copytree(packed, tmp_path / "pack")


def test_paths_bytes_and_sources_are_the_folders(images, packed):
    folder, found = open_images(images / "train"), open_images(packed)
    assert is_pack(packed) and np.array_equal(found.paths, folder.paths)
    assert all(found.read(i) == folder.read(i) for i in range(80))
    assert np.array_equal(found.stat(), folder.stat())
    # what a worker gets, over a shard's end
    part = pickle.loads(pickle.dumps(found.take(slice(28, 33))))
    assert [part.read(i) for i in range(5)] == [folder.read(i) for i in range(28, 33)]
    assert len(pickle.dumps(found)) < 20_000  # never what it has open
    with h5py.File(packed / "images-00000.h5") as shard:
        assert shard["bytes"].chunks is None and shard["bytes"].id.get_offset() % 4096 == 0


def test_larger_images_are_reduced_and_smaller_ones_kept(shared):
    content = (shared / "ecssd" / "images" / "0001.jpg").read_bytes()
    whole = decode(content)
    short = min(whole.shape[:2])
    assert smaller(content, short, 90) == content == smaller(content, 0, 90)
    made = smaller(content, 128, 90)
    small = decode(made)
    assert min(small.shape[:2]) == 128 and len(made) < len(content) / 2
    size = round(whole.shape[1] * 128 / short), round(whole.shape[0] * 128 / short)
    assert small.shape[1::-1] == size
    plain = cv2.resize(whole, size, interpolation=cv2.INTER_AREA)
    assert np.abs(small.astype(int) - plain).mean() < 3  # what JPEG at 90 costs
    assert len(smaller(content, 128, 50)) < len(made)


def test_a_run_does_not_go_on_from_a_pack_that_reduces(images, truth_cache, tmp_path):
    settings = config(images, truth_cache, tmp_path / "run", epochs=1)
    train(settings, stop_at=2)
    for side in (0, 16):
        pack(str(images / "train"), str(tmp_path / f"pack{side}"), Settings(side))
    said = r"images: 80 images, .* -> 80 images, .*, short side 16 px at most, JPEG"
    with pytest.raises(UsageError, match=said):
        train(change(settings, images=str(tmp_path / "pack16")))
    assert train(change(settings, images=str(tmp_path / "pack0")))  # the same bytes


def test_broken_images_keep_their_place(images, tmp_path):
    for name in ("a.png", "c.png"):
        shutil.copy(images / "train" / "class0" / "000.png", tmp_path / name)
    (tmp_path / "b.png").write_bytes(b"broken")
    (tmp_path / "huge.png").write_bytes(bytes(2 << 20))
    assert pack(str(tmp_path), str(tmp_path / "pack"), Settings(16)) == Outcome(4, 1)
    found = open_images(tmp_path / "pack")
    assert found.paths.tolist() == [b"a.png", b"b.png", b"c.png", b"huge.png"]
    assert decode(found.read(0)).shape == (16, 16, 3) and found.read(0)[:2] == b"\xff\xd8"
    assert found.read(1) == b"broken"
    with pytest.raises(ImageError):
        found.read(3)


def contents(folder) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir()) if f.name != ".lock"}


def test_resumed_repaired_and_made_by_many_gives_the_same_bytes(images, packed, tmp_path):
    whole = contents(packed)
    assert set(whole) == {"pack.json", "CHECKSUMS", *(f"images-{n:05d}.h5" for n in range(3))}
    again = tmp_path / "again"
    root = str(images / "train")
    assert pack(root, str(again), THIRTY, workers=2) == Outcome(80, 0)
    assert contents(again) == whole
    assert pack(root, str(again), THIRTY) == Outcome(0, 0)
    # as a kill would leave it: no pack.json, a shard and a half; and as a Mac looks at it
    (again / "images-00001.h5").unlink()
    (again / "pack.json").rename(again / "settings.json")
    (again / "images-00001.h5.host.1.tmp").write_bytes(b"half")
    (again / ".DS_Store").write_bytes(b"x")
    with pytest.raises(UsageError, match="no images"):
        open_images(again)
    assert pack(root, str(again), THIRTY) == Outcome(30, 0)
    (again / ".DS_Store").unlink()
    assert contents(again) == whole
    file = again / "images-00002.h5"  # a flipped bit in an image
    damaged = bytearray(file.read_bytes())
    damaged[-2000] ^= 1
    file.write_bytes(damaged)
    assert [bool(text) for _, text in problems(again, shard_names(again))] == [False, False, True]
    assert pack(root, str(again), THIRTY, repair=True) == Outcome(20, 0)
    assert contents(again) == whole


def test_other_settings_other_images_and_another_process_are_refused(images, copy, tmp_path):
    root, out = shutil.copytree(images / "train", tmp_path / "images"), str(copy)
    with pytest.raises(UsageError, match=r"other settings \(side 256 -> 64\)"):
        pack(str(root), out, Settings(64, shard_size=30))
    file = root / "class0" / "000.png"
    os.utime(file, ns=(1, 1))
    with pytest.raises(UsageError, match=r"images-00000.h5 were changed since; choose another OUT"):
        pack(str(root), out, THIRTY)
    file.unlink()
    with pytest.raises(UsageError, match="finished pack of 80 images, and there are 79 now"):
        pack(str(root), out, THIRTY)
    with pytest.raises(UsageError, match="class0: is no part of a pack"):
        pack(str(root), str(root))
    with lock(copy / ".lock"), pytest.raises(UsageError, match="another process is making this"):
        pack(str(root), out, THIRTY)
    for begun in ("{", "[1]"):
        (tmp_path / "new").mkdir(exist_ok=True)
        (tmp_path / "new" / "settings.json").write_text(begun)
        with pytest.raises(UsageError, match="other settings"):
            pack(str(root), str(tmp_path / "new"))
    with pytest.raises(UsageError, match="quality in 1"):
        Settings(quality=0)


EMPTY = {"schema": 1, "images": 5, "shard_size": 0, "side": 1, "quality": 1, "file_bytes": []}
LARGE = EMPTY | {"images": 10**9, "shard_size": 10**9, "file_bytes": [1]}


def column(name: str, values):
    def damage(file) -> None:
        with h5py.File(file, "r+") as shard:
            changed = values(shard[name][...])
            del shard[name]
            shard[name] = changed

    return damage


def elsewhere(file) -> None:
    file.rename(file.parents[1] / "elsewhere")
    file.symlink_to(file.parents[1] / "elsewhere")


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("pack.json", lambda f: f.write_text("{"), "damaged; delete it"),
        ("pack.json", lambda f: f.write_text("[" * 10**5), "damaged; delete it"),
        ("pack.json", lambda f: f.write_text(json.dumps(EMPTY)), "damaged"),
        ("pack.json", lambda f: f.write_text(json.dumps(LARGE)), "not belong"),
        ("pack.json", elsewhere, "cp -rL"),
        ("images-00000.h5", elsewhere, "no file of this folder"),
        ("images-00000.h5", lambda f: f.unlink(), "is missing: run the same"),
        ("images-00000.h5", lambda f: os.truncate(f, 9000), "is damaged or cut short"),
        ("images-00000.h5", lambda f: f.write_bytes(bytes(f.stat().st_size)), "is damaged"),
        ("images-00000.h5", lambda f: shutil.copy(f.with_name("images-00001.h5"), f), "not belong"),
        ("images-00000.h5", column("offset", lambda n: np.append(n[:-1], 1 << 40)), "bytes: is"),
        ("images-00000.h5", column("offset", lambda n: n[:0]), "damaged"),
        ("images-00000.h5", column("path", lambda p: np.append(p[:-1], b"../../x")), "not fit"),
        ("images-00000.h5", column("source", lambda n: n.astype("f8")), "is float64"),
        (
            "images-00000.h5",
            column("bytes", lambda _: h5py.ExternalLink("/etc/passwd", "b")),
            "link",
        ),
    ],
)
def test_a_pack_that_is_damaged_or_from_elsewhere_is_one_line(copy, data, name, damage, said):
    damage(copy / name)
    code, _, error = data("list", copy)
    assert code == 2 and said in error and error.count("\n") == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_an_interrupted_command_continues(images, data, tmp_path, number, code):
    (tmp_path / "many").mkdir()
    for i in range(120):  # enough shards that the signal comes in the middle
        picture = images / "train" / f"class{i % 2}" / f"{i % 80:03d}.png"
        (tmp_path / "many" / f"{i:03d}.png").symlink_to(picture)
    command = ["pack", tmp_path / "many", tmp_path / "pack", "--shard-size", "5", "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "data", *map(str, command)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while process.poll() is None and not list((tmp_path / "pack").glob("images-*.h5")):
        time.sleep(0.005)
    os.killpg(process.pid, number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode in (0, code) and "Traceback" not in said
    if not (tmp_path / "pack" / "pack.json").exists():  # or it was through
        assert process.returncode == code and "stopped; the same command continues" in said
    assert data(*command)[0] == 0
    pack(str(tmp_path / "many"), str(tmp_path / "whole"), Settings(shard_size=5))
    assert contents(tmp_path / "pack") == contents(tmp_path / "whole")
    code, _, said = data(*command, "--side", "9")
    assert code == 2 and said.startswith("error: ") and said.count("\n") == 1
    assert "24 of 24 shards are sound" in data("verify", tmp_path / "pack")[1]


def test_the_callers_opencv_keeps_its_threads(images, tmp_path):
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    pack(str(images / "train"), str(tmp_path / "pack"), Settings(16))
    make(tmp_path / "set", Scenes(train=1, probe=1, test=1, size=16))
    threads = cv2.getNumThreads()
    cv2.setNumThreads(before)
    assert threads == 3
