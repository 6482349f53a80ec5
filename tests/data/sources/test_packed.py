"""Packs of images: the folder's paths and bytes, resumed, repaired, or one line where damaged."""

import json
import os
import shutil
from unittest import mock

import cv2
import h5py
import numpy as np
import pytest

from data.io import lock
from data.sources.base import Folder
from data.sources.images import ImageError, decode, open_images
from data.sources.pack import Outcome, Settings, pack, smaller
from tests.conftest import contents, data, one_line, refused
from tests.preprocess.runs import flip
from tests.train.runs import config
from train.dataset import open_training_set
from train.presets import change

THIRTY = Settings(shard_size=30)
EMPTY = {"schema": 1, "images": 5, "shard_size": 0, "side": 1, "quality": 1, "file_bytes": []}
LARGE = EMPTY | {"images": 10**9, "shard_size": 10**9, "file_bytes": [1]}


@pytest.fixture(scope="module")
def packed(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pack") / "pack"
    assert pack(str(images / "train"), str(folder), THIRTY) == Outcome(80, 0)
    return folder


@pytest.fixture
def copy(packed, tmp_path):
    return shutil.copytree(packed, tmp_path / "pack")


def test_larger_images_are_reduced_and_smaller_ones_kept(shared):
    content = (shared / "ecssd" / "images" / "0001.jpg").read_bytes()
    whole = decode(content)
    height, width = whole.shape[:2]
    short = min(height, width)
    assert smaller(content, short, 90) == content == smaller(content, 0, 90)
    reduced = smaller(content, 128, 90)
    size = round(width * 128 / short), round(height * 128 / short)
    plain = cv2.resize(whole, size, interpolation=cv2.INTER_AREA)
    assert np.abs(decode(reduced).astype(int) - plain).mean() < 3  # what JPEG at 90 costs
    assert len(smaller(content, 128, 50)) < len(reduced) < len(content) / 2


def test_a_pack_that_reduces_holds_other_images_for_a_run(images, tmp_path):
    settings = config(images, "none", tmp_path)
    identity = open_training_set(settings).identity()
    for side in (0, 16):
        out = str(tmp_path / f"pack{side}")
        pack(str(images / "train"), out, Settings(side))
        packed = open_training_set(change(settings, images=out)).identity()
        assert (packed == identity) == (side == 0)  # the same bytes


def test_broken_images_keep_their_place_and_the_caller_its_threads(images, tmp_path):
    threads = cv2.getNumThreads()
    shutil.copy(images / "train" / "class0" / "000.png", tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"broken")
    (tmp_path / "c.png").write_bytes(bytes(2 << 20))
    assert pack(str(tmp_path), str(tmp_path / "pack"), Settings(16)) == Outcome(3, 1)
    found = open_images(tmp_path / "pack")
    assert found.paths.tolist() == [b"a.png", b"b.png", b"c.png"]
    assert decode(found.read(0)).shape == (16, 16, 3) and found.read(0)[:2] == b"\xff\xd8"
    assert found.read(1) == b"broken" and cv2.getNumThreads() == threads
    with pytest.raises(ImageError):
        found.read(2)


def test_images_that_could_not_be_read_are_tried_again(images, packed, tmp_path, monkeypatch):
    places = str(images / "train"), str(tmp_path / "pack"), THIRTY
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "read", mock.Mock(side_effect=ImageError("missing", "offline")))
        assert pack(*places) == Outcome(80, 80)
        assert pack(*places) == Outcome(0, 80)
    assert pack(*places) == Outcome(80, 0) and contents(tmp_path / "pack") == contents(packed)


def test_resumed_and_repaired_gives_the_same_bytes(images, packed, tmp_path):
    whole, again, root = contents(packed), tmp_path / "again", str(images / "train")
    assert set(whole) == {"pack.json", "CHECKSUMS", *(f"images-{n:05d}.h5" for n in range(3))}
    shutil.copytree(packed, again)
    assert pack(root, str(again), THIRTY) == Outcome(0, 0)
    (again / "images-00001.h5").unlink()
    (again / "pack.json").rename(again / "settings.json")
    (again / ".DS_Store").write_bytes(b"x")
    assert "no images" in refused(open_images, again)
    assert pack(root, str(again), THIRTY) == Outcome(30, 0)
    flip(again / "images-00002.h5", -2000 * 8)  # a bit in an image
    done = data("verify", again)
    assert done.returncode == 1 and done.stderr.count("images-") == 1
    assert "images-00002.h5: does not match" in done.stderr
    assert pack(root, str(again), THIRTY, repair=True) == Outcome(20, 0)
    assert contents(again) == whole


def test_other_settings_other_images_and_another_process_are_refused(images, copy, tmp_path):
    root, out = shutil.copytree(images / "train", tmp_path / "images"), str(copy)
    other = Settings(64, shard_size=30)
    assert "other settings (side 256 -> 64)" in refused(pack, str(root), out, other)
    file = root / "class0" / "000.png"
    os.utime(file, ns=(1, 1))
    assert "images-00000.h5 were changed since" in refused(pack, str(root), out, THIRTY)
    file.unlink()
    fewer = "finished pack of 80 images, and there are 79 now"
    assert fewer in refused(pack, str(root), out, THIRTY)
    assert "class0: is no part of a pack" in refused(pack, str(root), str(root))
    with lock(copy / ".lock"):
        assert pack(str(images / "train"), out, THIRTY) == Outcome(0, 0)  # a look at the same time
        (copy / "images-00001.h5").unlink()
        busy = "another process is making this"
        assert busy in refused(pack, str(images / "train"), out, THIRTY)


def column(name: str, values):
    def damage(file) -> None:
        with h5py.File(file, "r+") as shard:
            shard[name] = values(shard.pop(name)[...])

    return damage


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("pack.json", lambda f: f.write_text("[" * 10**5), "damaged; delete it"),
        ("pack.json", lambda f: f.write_text(json.dumps(EMPTY)), "damaged"),
        ("pack.json", lambda f: f.write_text(json.dumps(LARGE)), "not belong"),
        ("images-00000.h5", lambda f: f.unlink(), "is missing: run the same"),
        ("images-00000.h5", lambda f: os.truncate(f, 9000), "is damaged or cut short"),
        ("images-00000.h5", lambda f: shutil.copy(f.with_name("images-00001.h5"), f), "not belong"),
        ("images-00000.h5", column("offset", lambda n: np.append(n[:-1], 1 << 40)), "bytes: is"),
        ("images-00000.h5", column("path", lambda p: np.append(p[:-1], b"../../x")), "not fit"),
    ],
)
def test_a_pack_that_is_damaged_or_from_elsewhere_is_one_line(copy, name, damage, said):
    damage(copy / name)
    assert said in one_line(data("list", copy))
