"""The embedded data set and the Backgrounds Challenge's: composed, deterministic, biased, whole."""

import csv
import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from data.io import lock
from data.synthetic import challenge, dataset
from data.synthetic.backdrops import BACKGROUNDS
from data.synthetic.challenge import Options
from data.synthetic.objects import CLASSES
from data.synthetic.variants import VARIANTS, binary, box, tiled
from preprocess.pipeline import build
from preprocess.recipe import Recipe
from tests.conftest import contents, data, one_line, refused

SMALL = dataset.Scenes(train=30, probe=20, test=20, size=32)


def test_files_depend_on_the_seed_not_on_workers_or_counts(tmp_path):
    record = dataset.make(tmp_path / "x", SMALL)
    dataset.make(tmp_path / "y", replace(SMALL, train=40), workers=2)
    ours, theirs = contents(tmp_path / "x"), contents(tmp_path / "y")
    assert json.loads(ours.pop("dataset.json")) == record and ours.items() <= theirs.items()
    pictures = {name.removesuffix(".jpg") for name in ours if name.endswith(".jpg")}
    masks = {name.removeprefix("masks/") for name in ours if name.endswith(".png")}
    assert pictures == {name.removesuffix(".png") for name in masks}
    assert len(pictures) == sum(record["counts"].values())
    first, second = (dataset.draw("train", 3, seed=seed, size=32)["train"][0] for seed in (0, 1))
    assert (first != second).any()


@pytest.mark.parametrize("bias", [0.0, 0.9, 1.0])
def test_correlation_is_the_bias(bias):
    kinds = [dataset.background_kinds("train", i, bias=bias)["train"] for i in range(2000)]
    own = [dataset.OWN_KIND[CLASSES[i % 10]] == kind for i, kind in enumerate(kinds)]
    assert abs(np.mean(own) - bias) < 0.04 and set(kinds) == set(BACKGROUNDS)


@pytest.mark.parametrize("index", (0, 3, 7))
def test_test_splits_are_paired_and_compose(index):
    drawn = dataset.draw("test", index).items()
    scene = {split: (image.astype(float), mask) for split, (image, mask) in drawn}
    image, mask = scene["mixed_same"]
    for split in ("original", "mixed_rand", "only_fg"):
        assert (scene[split][1] == mask).all()
        # wholly inside the mask every split shows the same object; around it the backgrounds differ
        assert (scene[split][0][mask == 255] == image[mask == 255]).all()
        assert np.abs(scene[split][0][mask == 0] - image[mask == 0]).mean() > 5
    composed = scene["only_fg"][0] + (1 - mask[..., None] / 255) * scene["only_bg"][0]
    assert np.abs(composed - image).max() <= 2  # rounded three times
    assert not scene["only_bg"][1].any() and not scene["only_fg"][0][mask == 0].any()


def test_pictures_are_those_of_this_version():
    """Of every class and nearly every kind; VERSION is raised whenever one changes."""
    contrast = [dataset.draw("train", i, bias=0.5)["train"][0].std() for i in range(24)]
    expected = [54.5, 54.9, 44.9, 59.9, 48.8, 60.7, 44.6, 28.3, 42.9, 64.4, 56.8, 56.7]
    expected += [48.6, 49.1, 42.1, 52.9, 47.8, 40.1, 51.1, 59.2, 63.4, 52.9, 40.7, 39.7]
    assert contrast == pytest.approx(expected, abs=0.1)


def test_up_to_date_returns_at_once_and_other_parameters_replace_it(tmp_path):
    dataset.make(tmp_path, SMALL)
    victim = next((tmp_path / "train").glob("*/*.jpg"))
    victim.write_bytes(b"changed")
    lost = next((tmp_path / "masks" / "only_fg").glob("*/*.png"))
    lost.unlink()
    dataset.make(tmp_path, SMALL)  # the record matches: only what is missing is written
    assert victim.read_bytes() == b"changed" and cv2.imread(str(lost)) is not None
    (tmp_path / "train" / "my_own").mkdir()
    (tmp_path / "train" / "my_own" / "00000.jpg").write_bytes(b"precious")
    dataset.make(tmp_path, replace(SMALL, train=10))
    (tmp_path / "dataset.json").rename(tmp_path / "dataset.json.tmp")  # killed while it removed
    victim.with_name("00099.jpg").write_bytes(b"stale")
    dataset.make(tmp_path, replace(SMALL, train=10))
    assert len(list((tmp_path / "train").glob("*/*.jpg"))) == 11
    folder = victim.parent.rename(tmp_path.with_name(f"{tmp_path.name}-elsewhere"))
    victim.parent.symlink_to(folder)
    assert "a link out of" in refused(dataset.make, tmp_path, SMALL)
    assert list(folder.iterdir())


def test_bad_arguments_and_other_files_are_refused(tmp_path):
    for option in ("--train 0", "--size 8", "--bias 1.5", "--seed -1"):
        done = data("synthetic", tmp_path / "x", *option.split())
        assert done.returncode == 2 and f"{option}: expected" in done.stderr
    (tmp_path / "train").mkdir()
    (tmp_path / "dataset.json").write_text('{"name": "of another program"}')
    assert "other files (dataset.json, train)" in refused(dataset.make, tmp_path, SMALL)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_foreground_is_cut_at_otsu_and_loses_its_specks():
    mask, expected = np.full((40, 40), 20, np.uint8), np.zeros((40, 40), bool)
    mask[10:30, 5:25] = 130  # an estimator's grey: nothing is above one half of 255 but these
    mask[33:39, 30:39] = 130  # 54 of 400 pixels: a part of the object
    mask[35:37, 2:4] = 140
    expected[10:30, 5:25] = expected[33:39, 30:39] = True
    assert np.array_equal(binary(mask, 40, 40), expected)
    assert not binary(np.full((8, 8), 255, np.uint8), 16, 16).any()


@pytest.mark.parametrize("turn", range(4))
def test_tiles_of_the_largest_strip_fill_the_box(turn):
    upright = np.arange(20 * 30 * 3).reshape(20, 30, 3).astype(np.uint8)
    gone = np.zeros((20, 30), bool)
    # below are 5 rows of 30 pixels, left 4 columns of 20, right 8 columns of 20: right wins
    gone[2:15, 4:22] = True
    found = np.rot90(tiled(np.rot90(upright, turn), box(np.rot90(gone, turn))), -turn)
    assert np.array_equal(found[~gone], upright[~gone])
    tiles = {tuple(row.tolist()) for row in upright[2:15, 22:].reshape(-1, 3)}
    assert {tuple(row.tolist()) for row in found[2:15, 4:22].reshape(-1, 3)} <= tiles


@pytest.fixture(scope="module")
def challenge_set(images, truth_cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("challenge") / "set"
    return out, challenge.make(images / "train", truth_cache, out, Options(limit=6))


def test_the_set_on_disk_is_the_official_layout(challenge_set, images):
    out, record = challenge_set
    assert record["counts"] == {"class0": 6, "class1": 6} and len(record["backgrounds"]) == 12
    for path, sources in record["backgrounds"].items():
        same, following = (sources[f"mixed_{k}"].split("/")[0] for k in ("same", "next"))
        assert same == path.split("/")[0] != following and path not in sources.values()
        name = path.replace(".png", "")
        files = {k: out / k / "val" / f"{name}.JPEG" for k in VARIANTS}
        pictures = {k: cv2.imread(str(file)).astype(int) for k, file in files.items()}
        mask = np.load(out / "fg_mask" / "val" / f"{name}.npy")
        true = cv2.imread(str(images / "masks" / path), cv2.IMREAD_GRAYSCALE) >= 128
        assert (mask != true).mean() < 0.02 and mask.dtype == bool
        core = cv2.erode(mask.astype(np.uint8), np.ones((9, 9))) > 0  # JPEG blocks blur the seam
        rest = cv2.dilate(mask.astype(np.uint8), np.ones((17, 17))) == 0
        original, nothing = pictures["original"], np.zeros_like(pictures["original"])
        expected = {"only_fg": (original, nothing), "no_fg": (nothing, original)}
        for variant, source in sources.items():
            back = cv2.imread(str(out / "only_bg_t" / "val" / source.replace(".png", ".JPEG")))
            expected[variant] = original, back
        assert pictures["only_bg_b"][core].mean() < 12
        for variant, (inside, outside) in expected.items():
            assert np.abs(pictures[variant] - inside)[core].mean() < 12, variant
            assert np.abs(pictures[variant] - outside)[rest].mean() < 12, variant


def test_other_options_or_files_are_refused(challenge_set, images, truth_cache, tmp_path):
    shutil.copytree(images / "train" / "class0", tmp_path / "alone" / "class0")
    for root, out, options, said in (
        ("train", challenge_set[0], "--limit 5", "other images, masks or options"),
        ("train", tmp_path, "", "holds other files"),
        (tmp_path / "alone", tmp_path / "y", "", "two classes or more (CLASS/image), each with"),
        ("train", tmp_path / "y", "--bias 2", "--bias 2.0: must be in 0..1"),
    ):
        done = data("challenge", images / root, truth_cache, out, *options.split())
        assert done.returncode == 2 and said in done.stderr


def test_a_set_is_of_these_images_whole_and_written_by_one_process(images, tmp_path):
    train, cache, out = (tmp_path / name for name in ("train", "cache", "out"))
    shutil.copytree(images / "train", train)
    build(str(train), str(cache), Recipe("centre", (), 32))
    command = ("challenge", train, cache, out, "--limit", 3, "--workers", 1)
    assert data(*command).returncode == 0
    before, victim = contents(out), next(out.glob("only_fg/val/*/*"))
    victim.unlink()
    with lock(out / ".lock"):
        assert "another process is writing this set" in one_line(data(*command))
    image = train / "class0" / "000.png"
    image.touch()  # as a copy has it: the same contents
    assert data(*command).returncode == 0 and contents(out) == before
    shutil.copy(train / "class0" / "002.png", image)
    assert "differ (first: class0/000.png); run `python -m preprocess`" in one_line(data(*command))
    build(str(train), str(cache), Recipe("centre", (), 32))
    assert "holds a challenge set of other images" in one_line(data(*command))


def test_training_variants_and_backgrounds_that_go_with_the_class(images, truth_cache, tmp_path):
    train, out = images / "train", tmp_path / "train"
    challenge.make(train, truth_cache, out, Options(split="train", bias=0.9))
    variants = ("original", "mixed_same", "mixed_rand", "only_fg", "biased")
    with (out / "list.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, dialect="excel-tab"))
    pictures = {str(p.relative_to(out)) for p in out.glob("*/train/*/*.JPEG")}
    assert {row["file"] for row in rows} == pictures and len(pictures) == 80 * len(variants)
    own = {variant: [] for variant in variants}
    for row in rows:
        variant, _, label, _ = row["file"].split("/")
        assert row["source"].split("/")[0] == label and row["donor"] != row["source"]
        assert bool(row["donor"]) == (variant in ("mixed_same", "mixed_rand", "biased"))
        assert row["donor_class"] == row["donor"].split("/")[0] and 0 < float(row["coverage"]) < 1
        own[variant].append(row["donor_class"] == label)
    assert all(own["mixed_same"]) and 0.3 < np.mean(own["mixed_rand"]) < 0.7
    assert 0.8 < np.mean(own["biased"]) < 1

    biased = challenge.make(train, truth_cache, tmp_path / "test", Options(bias=0.5))["backgrounds"]
    plain = challenge.make(train, truth_cache, tmp_path / "plain")["backgrounds"]
    assert all(biased[path].items() >= kinds.items() for path, kinds in plain.items())
