"""The embedded data set: deterministic, biased as asked, paired across splits, and noticed when
incomplete."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.cli import UsageError
from data.synthetic import dataset as synthetic
from data.synthetic.backdrops import BACKGROUNDS, draw_background
from data.synthetic.objects import AREA, CLASSES, draw_object

SMALL = synthetic.Scenes(train=30, probe=20, test=20, size=32)


def make(out: Path, scenes: synthetic.Scenes = SMALL, workers: int = 1) -> synthetic.Record:
    return synthetic.make(out, scenes, workers=workers)


def _contents(root: Path) -> dict[str, bytes]:
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic")
    return out, make(out)


def test_layout_and_record(made):
    out, record = made
    assert record == json.loads((out / "dataset.json").read_text())
    assert (record["seed"], record["size"], record["bias"]) == (0, 32, 0.9)
    for split in synthetic.SPLITS:
        pictures = sorted((out / split).glob("*/*.jpg"))
        masks = sorted((out / "masks" / split).glob("*/*.png"))
        assert len(pictures) == record["counts"][split]
        assert [p.parent.name + p.stem for p in pictures] == [m.parent.name + m.stem for m in masks]
        assert {p.parent.name for p in pictures} == set(CLASSES)
    mask = cv2.imread(str(masks[0]), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (32, 32) and mask.dtype == np.uint8


def test_files_depend_on_the_seed_not_on_workers_or_counts(made, tmp_path):
    make(tmp_path, replace(SMALL, train=130), workers=2)
    ours, theirs = _contents(made[0]), _contents(tmp_path)
    del ours["dataset.json"]
    assert all(theirs[name] == content for name, content in ours.items())
    first, second = (synthetic.draw("train", 3, seed=seed, size=32)["train"][0] for seed in (0, 1))
    assert (first != second).any()


@pytest.mark.parametrize("bias", [0.0, 0.5, 0.9, 1.0])
def test_correlation_is_the_bias(bias):
    names = list(CLASSES)
    kinds = [synthetic.background_kinds("train", i, bias=bias)["train"] for i in range(2000)]
    own = [synthetic.OWN_KIND[names[i % 10]] == kind for i, kind in enumerate(kinds)]
    assert abs(np.mean(own) - bias) < 0.04
    assert sorted(synthetic.OWN_KIND.values()) == sorted(BACKGROUNDS)


@pytest.mark.parametrize("index", (0, 3, 7))
def test_test_splits_are_paired_and_compose(index):
    drawn = synthetic.draw("test", index).items()
    scene = {split: (image.astype(float), mask) for split, (image, mask) in drawn}
    assert tuple(scene) == synthetic.TEST_SPLITS
    image, mask = scene["mixed_same"]
    for split in ("original", "mixed_rand", "only_fg"):
        assert (scene[split][1] == mask).all()
        # Wholly inside the mask every split shows the same object; around it the backgrounds
        # differ.
        assert (scene[split][0][mask == 255] == image[mask == 255]).all()
        assert np.abs(scene[split][0][mask == 0] - image[mask == 0]).mean() > 5
    alpha = mask[..., None] / 255
    composed = scene["only_fg"][0] + (1 - alpha) * scene["only_bg"][0]
    assert np.abs(composed - image).max() <= 2  # rounded three times
    assert not scene["only_bg"][1].any() and not scene["only_fg"][0][mask == 0].any()


@pytest.mark.parametrize("name", CLASSES)
def test_objects_have_the_size_and_the_frame_they_should(name):
    masks = np.stack([draw_object(name, np.random.default_rng(k), 64)[1] for k in range(40)])
    coverage = masks.mean((1, 2))
    assert AREA[0] * 0.75 < coverage.min() and coverage.max() < AREA[1] * 1.25
    border = np.concatenate([masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1]], 1)
    assert (border > 0.5).mean() < 0.1  # mostly inside the frame
    assert ((masks > 0) & (masks < 1)).any((1, 2)).all()  # soft edges
    centres = np.array([[w.mean() for w in np.nonzero(m > 0.5)] for m in masks])
    assert (centres.std(0) > 3).all()  # placed anywhere


@pytest.mark.parametrize("kind", BACKGROUNDS)
def test_backgrounds_vary_and_keep_away_from_the_object(kind):
    seeds = [*range(8), 0]
    grey = np.full(3, 128.0)
    images = [draw_background(kind, np.random.default_rng(k), 48, grey) for k in seeds]
    for image in images:
        assert image.shape == (48, 48, 3) and image.min() >= 0 and image.max() <= 255
        assert image.mean(2).std() > 5
    assert all(np.abs(images[0] - image).mean() > 10 for image in images[1:8])
    assert (images[8] == images[0]).all()


def test_up_to_date_returns_at_once_and_other_parameters_replace_it(tmp_path):
    make(tmp_path)
    victim = next((tmp_path / "train").glob("*/*.jpg"))
    victim.write_bytes(b"changed")
    make(tmp_path)
    assert victim.read_bytes() == b"changed"  # the record matches, so nothing is written
    others = [tmp_path / "train" / "my_own" / "00000.jpg", tmp_path / "notes" / "x.tmp"]
    for other in others:
        other.parent.mkdir()
        other.write_bytes(b"precious")
    make(tmp_path, replace(SMALL, train=10))
    assert len(list((tmp_path / "train").glob("*/*.jpg"))) == 11 and all(map(Path.exists, others))
    # killed while it removed the pictures of another set
    (tmp_path / "dataset.json").rename(tmp_path / "dataset.json.tmp")
    victim.with_name("00099.jpg").write_bytes(b"stale")
    make(tmp_path, replace(SMALL, train=10))
    assert len(list((tmp_path / "train").glob("*/*.jpg"))) == 11
    folder = victim.parent.rename(tmp_path.with_name(f"{tmp_path.name}-elsewhere"))
    victim.parent.symlink_to(folder)
    with pytest.raises(UsageError, match="a link out of"):
        make(tmp_path)
    assert list(folder.iterdir())


def test_a_kill_leaves_it_unfinished_and_the_same_call_finishes_it(made, tmp_path):
    out = tmp_path / "set"
    command = [sys.executable, "-m", "data", "synthetic", str(out), "--size", "32"]
    command += ["--workers", "1", "--train", "30", "--probe", "20", "--test", "20"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and not list(out.glob("train/*/00005.jpg")):
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert (out / "dataset.json").exists() != (out / "dataset.json.tmp").exists()
    make(out)
    assert _contents(out) == _contents(made[0])


def test_bad_arguments():
    for name, value in {"train": 0, "test": -1, "size": 8, "bias": 1.5, "seed": -1}.items():
        with pytest.raises(UsageError, match=f"--{name} {value}: expected"):
            synthetic.Scenes(**{name: value})


def test_other_files_and_data_sets_are_left_alone(tmp_path):
    picture = tmp_path / "train" / "disc_ringed" / "00000.jpg"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"precious")
    (tmp_path / "dataset.json").write_text('{"name": "of another program"}')
    with pytest.raises(UsageError, match=r"other files \(dataset\.json, train\)"):
        make(tmp_path)
    assert picture.read_bytes() == b"precious"
