"""The set like the Backgrounds Challenge's: pictures against plain compositions, layout,
continuing, bad input."""

import csv
import json
import shutil

import cv2
import numpy as np
import pytest

from data.cache.reader import Cache
from data.cli import UsageError
from data.synthetic.challenge import Options, make
from data.synthetic.variants import MIXED, VARIANTS, binary, box, compose, tiled
from evaluate.backgrounds import in9


def test_a_foreground_is_cut_at_otsu_and_loses_its_specks():
    mask = np.full((40, 40), 20, np.uint8)
    mask[10:30, 5:25] = 130  # an estimator's grey: nothing is above one half of 255 but these
    mask[35:37, 35:37] = 140
    found = binary(mask, 80, 120)
    expected = np.zeros((80, 120), bool)
    expected[20:60, 15:75] = True
    assert found.shape == (80, 120) and (found != expected).mean() < 0.005 and not found[65:].any()
    assert not binary(np.full((8, 8), 255, np.uint8), 16, 16).any()
    with_two = mask.copy()
    with_two[33:39, 30:39] = 130  # 54 of 400 pixels: a part of the object
    assert binary(with_two, 40, 40)[36, 35]


@pytest.mark.parametrize("turn", range(4))
def test_tiles_of_the_largest_strip_fill_the_box(turn):
    image = np.rot90(np.arange(20 * 30 * 3).reshape(20, 30, 3).astype(np.uint8), turn)
    gone = np.zeros((20, 30), bool)
    # below are 5 rows of 30 pixels, left 4 columns of 20, right 8 columns of 20: right wins
    gone[2:15, 4:22] = True
    found = np.rot90(tiled(np.ascontiguousarray(image), box(np.rot90(gone, turn))), -turn)
    upright = np.rot90(image, -turn)
    assert np.array_equal(found[~gone], upright[~gone])
    tiles = {tuple(row.tolist()) for row in upright[2:15, 22:].reshape(-1, 3)}
    assert {tuple(row.tolist()) for row in found[2:15, 4:22].reshape(-1, 3)} <= tiles
    if turn == 0:
        assert np.array_equal(found[2:15, 4:12], image[2:15, 22:30])
        assert np.array_equal(found[2:15, 20:22], image[2:15, 22:24])
    with pytest.raises(ValueError, match="no background"):
        tiled(np.zeros((5, 5, 3), np.uint8), (0, 0, 5, 5))


def test_variants_are_put_together_pixel_by_pixel():
    rng = np.random.default_rng(0)
    image, other = rng.integers(1, 255, (2, 24, 24, 3), np.uint8)
    foreground = np.zeros((24, 24), bool)
    foreground[4:10, 5:15] = True
    foreground[4, 5] = False
    backgrounds = dict.fromkeys(MIXED, other) | {"only_bg_t": tiled(image, box(foreground))}
    found = compose(image, foreground, backgrounds)
    assert set(found) == set(VARIANTS)
    for y in range(24):
        for x in range(24):
            pixel, inside = image[y, x], foreground[y, x]
            in_box = 4 <= y < 10 and 5 <= x < 15
            assert (found["mixed_rand"][y, x] == (pixel if inside else other[y, x])).all()
            assert (found["only_fg"][y, x] == (pixel if inside else 0)).all()
            assert (found["no_fg"][y, x] == (0 if inside else pixel)).all()
            assert (found["only_bg_b"][y, x] == (0 if in_box else pixel)).all()
    assert np.array_equal(found["original"], image)


@pytest.fixture(scope="module")
def made(images, truth_cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("challenge") / "set"
    return out, make(images / "train", truth_cache, out, Options(limit=6))


def test_the_set_on_disk_is_the_official_layout(made, images, truth_cache):
    out, found = made
    assert found["counts"] == {"class0": 6, "class1": 6} and set(found["backgrounds"]) == {
        f"{p.parent.name}/{p.stem}.png" for p in (out / "original" / "val").glob("*/*.JPEG")
    }
    cache = Cache(truth_cache)
    for path, sources in found["backgrounds"].items():
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
        for variant, source in sources.items():
            back = cv2.imread(str(out / "only_bg_t" / "val" / source.replace(".png", ".JPEG")))
            assert np.abs(pictures[variant] - pictures["original"])[core].mean() < 12
            assert np.abs(pictures[variant] - back)[rest].mean() < 12
    assert found["masks"] == cache.description["identity_hash"]


def test_an_interrupted_set_is_continued_to_the_same_bytes(made, images, truth_cache, tmp_path):
    out, record = made
    again = tmp_path / "x"
    files = sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())
    for workers in (2, 1):
        made_again = make(images / "train", truth_cache, again, Options(limit=6), workers)
        assert made_again == record and len(files) == 12 * 9 + 2
        assert all((again / f).read_bytes() == (out / f).read_bytes() for f in files)
        for file in files:  # as a kill would leave it
            if "class1" in str(file):
                (again / file).unlink()
        (again / "challenge.json").rename(again / "challenge.json.tmp")


def test_other_options_or_files_are_refused(made, images, truth_cache, tmp_path):
    train, alone = images / "train", tmp_path / "alone"
    with pytest.raises(UsageError, match="other images, masks or options"):
        make(train, truth_cache, made[0], Options(limit=5))
    with pytest.raises(UsageError, match="--limit"):
        make(train, truth_cache, tmp_path / "y", Options(limit=0))
    (tmp_path / "notes.txt").write_text("not ours")
    with pytest.raises(UsageError, match="holds other files"):
        make(train, truth_cache, tmp_path)
    shutil.copytree(train / "class0", alone / "class0")
    with pytest.raises(UsageError, match=r"two classes or more .* it has 1"):
        make(alone, truth_cache, tmp_path / "y")


def test_in9_reads_it_with_a_probe(made, images, truth_cache, tmp_path):
    import torch

    from train.network import backbone

    out, _ = made
    torch.manual_seed(0)
    torch.save(backbone("resnet10", "small_stride2", 8).state_dict(), tmp_path / "x.pth")
    options = {"weights": str(tmp_path / "x.pth"), "stem": "small_stride2", "device": "cpu"}
    result = in9.evaluate(
        in9.Arguments(data=str(out), train=str(images / "train"), challenge=True, **options)
    )
    accuracy = result["accuracy"]["probe"]
    assert set(accuracy) == {*VARIANTS, "bg_gap", "challenge"} and result["published"] == []
    assert accuracy["original"] > 70  # its pictures are among the probe's training images
    assert accuracy["challenge"] <= min(accuracy["original"], 100)
    biased = tmp_path / "biased"
    record = make(images / "train", truth_cache, biased, Options(limit=12, bias=0.5))
    result = in9.evaluate(in9.Arguments(data=str(biased), train=str(images / "train"), **options))
    groups, counts = result["per_class"]["probe"], {True: 0, False: 0}
    for path, sources in record["backgrounds"].items():
        counts[sources["biased"].split("/")[0] == path.split("/")[0]] += 1
    both = [*groups["own_background"].values(), *groups["other_background"].values()]
    accuracy = result["accuracy"]["probe"]
    assert accuracy["worst_group"] == min(both) <= accuracy["biased"] and min(counts.values()) > 0
    (biased / "challenge.json").write_text(json.dumps(record | {"backgrounds": {}}))
    with pytest.raises(UsageError, match="whose backgrounds"):
        in9.evaluate(in9.Arguments(data=str(biased), train=str(images / "train"), **options))
    with pytest.raises(UsageError, match="needs --train DIR"):
        in9.evaluate(in9.Arguments(data=str(out), **options))
    broken = tmp_path / "broken"
    for variant in ("mixed_same", "mixed_rand"):
        (broken / variant / "val").mkdir(parents=True)
    for content in ("{", "[]", json.dumps({"name": "dilo-challenge", "classes": [1, 2]})):
        (broken / "challenge.json").write_text(content)
        with pytest.raises(UsageError, match="not what `python -m data challenge` writes"):
            in9.evaluate(in9.Arguments(data=str(broken), train=str(images / "train"), **options))


def test_training_variants_and_backgrounds_that_go_with_the_class(images, truth_cache, tmp_path):
    train, out, test = images / "train", tmp_path / "train", tmp_path / "test"
    with pytest.raises(UsageError, match=r"--bias 2: must be in 0\.\.1"):
        Options(bias=2)
    make(train, truth_cache, out, Options(split="train", bias=0.9))
    variants = ("original", "mixed_same", "mixed_rand", "only_fg", "biased")
    assert {p.name for p in out.iterdir() if p.is_dir()} == {*variants, "fg_mask"}
    with (out / "list.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, dialect="excel-tab"))
    assert {row["file"] for row in rows} == {
        str(p.relative_to(out)) for v in variants for p in out.glob(f"{v}/train/*/*.JPEG")
    }
    own = {variant: [] for variant in variants}
    for row in rows:
        variant, _, label, _ = row["file"].split("/")
        assert row["source"].split("/")[0] == label and row["donor"] != row["source"]
        assert bool(row["donor"]) == (variant in ("mixed_same", "mixed_rand", "biased"))
        assert row["donor_class"] == row["donor"].split("/")[0] and 0 < float(row["coverage"]) < 1
        own[variant].append(row["donor_class"] == label)
    assert all(own["mixed_same"]) and 0.3 < np.mean(own["mixed_rand"]) < 0.7
    assert 0.8 < np.mean(own["biased"]) < 1 and len(own["biased"]) == 80

    record = make(train, truth_cache, test, Options(bias=0.5))
    plain, biased = make(train, truth_cache, tmp_path / "plain"), record["backgrounds"]
    for path, kinds in plain["backgrounds"].items():
        assert biased[path].items() >= kinds.items()
    pictures = {p.stem: cv2.imread(str(p)) for p in (test / "biased" / "val").glob("*/*.JPEG")}
    assert len(pictures) == 80
