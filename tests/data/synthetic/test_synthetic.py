"""The embedded data set: deterministic, biased as asked, paired across splits, and noticed when
incomplete."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.synthetic import dataset as synthetic
from data.synthetic.backdrops import BACKGROUNDS, draw_background
from data.synthetic.objects import AREA, CLASSES, draw_object

SMALL = {"train": 30, "probe": 20, "test": 20, "size": 32, "progress": False}


def _contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic")
    return out, synthetic.make(out, **SMALL)


def test_layout_and_record(made):
    out, record = made
    assert record == json.loads((out / "dataset.json").read_text())
    assert (record["seed"], record["size"], record["bias"]) == (0, 32, 0.9)
    for split in synthetic.SPLITS:
        pictures, masks = (
            sorted((out / split).glob("*/*.jpg")),
            sorted((out / "masks" / split).glob("*/*.png")),
        )
        assert len(pictures) == record["counts"][split]
        assert [p.parent.name + p.stem for p in pictures] == [m.parent.name + m.stem for m in masks]
        assert {p.parent.name for p in pictures} == set(CLASSES)
    mask = cv2.imread(str(masks[0]), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (32, 32) and mask.dtype == np.uint8


def test_same_files_from_two_workers_and_more_images(made, tmp_path):
    out, _ = made
    synthetic.make(tmp_path, workers=2, **{**SMALL, "train": 130})
    ours, theirs = _contents(out), _contents(tmp_path)
    del ours["dataset.json"]
    assert all(theirs[name] == content for name, content in ours.items())


def test_seed_changes_pictures():
    first, second = (synthetic.draw("train", 3, seed=seed, size=32)["train"][0] for seed in (0, 1))
    assert (first != second).any()


def test_correlation_is_the_bias():
    rng = np.random.default_rng(0)
    for bias in (0.0, 0.5, 0.9, 1.0):
        own = np.mean(
            [
                synthetic._kind("star_spoked", bias, rng) == synthetic.OWN_KIND["star_spoked"]
                for _ in range(2000)
            ]
        )
        assert abs(own - bias) < 0.04
    assert sorted(synthetic.OWN_KIND.values()) == sorted(BACKGROUNDS)


@pytest.mark.parametrize("index", range(10))
def test_test_splits_are_paired_and_compose(index):
    scene = {
        split: (image.astype(float), mask)
        for split, (image, mask) in synthetic.draw("test", index).items()
    }
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
    images = [
        draw_background(kind, np.random.default_rng(k), 48, np.full(3, 128.0)) for k in range(8)
    ]
    for image in images:
        assert image.shape == (48, 48, 3) and image.min() >= 0 and image.max() <= 255
        assert image.mean(2).std() > 5
    assert all(np.abs(images[0] - image).mean() > 10 for image in images[1:])
    again = draw_background(kind, np.random.default_rng(0), 48, np.full(3, 128.0))
    assert (again == images[0]).all()


def test_up_to_date_returns_at_once_and_an_interruption_is_noticed(tmp_path):
    synthetic.make(tmp_path, **SMALL)
    before = _contents(tmp_path)
    victim = next((tmp_path / "train").glob("*/*.jpg"))
    victim.write_bytes(b"changed")
    synthetic.make(tmp_path, **SMALL)
    assert victim.read_bytes() == b"changed"  # the record matches, so nothing is written
    (tmp_path / "dataset.json").rename(
        tmp_path / "dataset.json.tmp"
    )  # as a kill before the end leaves it
    synthetic.make(tmp_path, **SMALL)
    assert _contents(tmp_path) == before


def test_a_kill_leaves_it_unfinished(tmp_path, monkeypatch):
    def full(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(synthetic, "_write", full)
        synthetic.make(tmp_path, **SMALL)
    assert not (tmp_path / "dataset.json").exists()
    assert synthetic.make(tmp_path, **SMALL)["counts"]["train"] == SMALL["train"]
    assert (tmp_path / "dataset.json").exists() and not (tmp_path / "dataset.json.tmp").exists()


def test_other_parameters_replace_the_folder(tmp_path):
    synthetic.make(tmp_path, **SMALL)
    synthetic.make(tmp_path, **{**SMALL, "train": 10})
    assert len(list((tmp_path / "train").glob("*/*.jpg"))) == 10


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"train": 0}, "train = 0"),
        ({"test": -1}, "test = -1"),
        ({"size": 8}, "size = 8"),
        ({"bias": 1.5}, "bias = 1.5"),
        ({"workers": 0}, "workers = 0"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_bad_arguments(tmp_path, bad, says):
    with pytest.raises(ValueError, match=says):
        synthetic.make(tmp_path / "out", **{**SMALL, **bad})
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"thesis\.tex"):
        synthetic.make(tmp_path, **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_data_set_is_left_alone(tmp_path):
    picture = tmp_path / "train" / "disc_ringed" / "00000.jpg"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"precious")
    (tmp_path / "dataset.json").write_text('{"name": "of another program"}')
    with pytest.raises(ValueError, match="other files"):
        synthetic.make(tmp_path, **SMALL)
    assert picture.read_bytes() == b"precious"
