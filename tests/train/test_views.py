"""Views and their order depend on what is drawn, not on who draws it; which masks are used."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.cache.reader import Cache
from data.cache.shard import STATUS
from data.sources.images import ImageError, decode, open_images
from preprocess.pipeline import build
from preprocess.recipe import Recipe
from tests.conftest import refused
from tests.train.runs import COLOURS, config, pairs
from train.dataset import open_training_set
from train.loader import Order
from train.loop import train
from train.masks import Masks, ellipse_like, make_masks
from train.parameters import COVERAGE, PASTED


def test_runs_that_differ_only_in_masks_see_the_same_crops_and_colours(images, truth_cache):
    items = [(epoch, index) for epoch in range(2) for index in range(80)]
    without = pairs(images, None).__getitems__(items)
    with_masks = pairs(images, Cache(truth_cache)).__getitems__(items)
    pasted = with_masks["parameters"][..., PASTED] > 0
    assert 0.2 < pasted.float().mean() < 0.4 and not without["parameters"][..., PASTED].any()
    coverage = with_masks["parameters"][..., COVERAGE]
    assert (coverage[~pasted] == 0).all() and 0.05 < coverage[pasted].mean() < 0.5
    assert torch.equal(without["parameters"][..., COLOURS], with_masks["parameters"][..., COLOURS])
    same = with_masks["views"] == without["views"]
    assert torch.equal(same.flatten(2).all(2), ~pasted)
    # where the mask is full the pasted view is still the same crop
    assert same[pasted].all(-1).float().mean() > 0.05


def test_a_view_does_not_depend_on_its_batch_nor_on_the_second(images, truth_cache):
    data = pairs(images, Cache(truth_cache))
    alone = data.__getitems__([(3, 17)])
    among = data.__getitems__([(3, 5), (3, 17), (0, 17)])
    assert torch.equal(alone["views"][:, 0], among["views"][:, 1])
    assert not torch.equal(alone["views"][:, 0], among["views"][:, 2])  # another epoch
    assert not torch.equal(alone["views"][0], alone["views"][1])
    first = pairs(images, Cache(truth_cache), method="instdisc").__getitems__([(3, 17)])
    assert all(torch.equal(first[key], alone[key][:1]) for key in ("views", "parameters"))


def test_an_epoch_has_every_image_once_in_another_order():
    epochs = [list(Order(103, 12, 3, 5, 8 * epoch))[:8] for epoch in range(3)]
    images = [[index for batch in epoch for _, index in batch] for epoch in epochs]
    assert all(len(set(order)) == 96 for order in images) and images[0] != images[1]


def test_a_row_has_a_mask_exactly_where_the_trainer_has_an_image(shared, tmp_path):
    """A broken image gives its place to the next, under that one's number."""
    root = shared / "odd_images"
    build(str(root), str(tmp_path / "cache"), Recipe("spectral", (), 32))
    cache, images = Cache(tmp_path / "cache"), open_images(root)
    data = pairs(images, cache)
    read = data.__getitems__([(0, row) for row in range(len(images))])
    for row in range(len(images)):
        try:
            image = decode(images.read(row))
        except ImageError as error:
            assert cache.status[row] == STATUS[error.reason] and data.data.masks[row] is None
            assert not cache.mask(row).any() and read["index"][row] != row
            continue
        assert cache.status[row] == 0 and read["index"][row] == row
        assert cache.column("size")[row].tolist() == list(image.shape[:2])
    assert read["replaced"] == (cache.status != 0).sum() > 0


def test_failed_empty_and_full_masks_are_never_used():
    masks, rows = np.full((6, 32, 32), 255, np.uint8), np.arange(6)
    masks[:4] = np.array([0, 1, 128, 254])[:, None, None]
    masks[5, 0, 0] = 254  # nearly full is used
    cache = SimpleNamespace(status=np.array([0, 0, 5, 0, 0, 0]), mask=lambda row: masks[row])
    assert [i for i in rows if Masks(cache, rows)[i] is not None] == [1, 3, 5]
    narrow = Masks(cache, rows, limits=(0.01, 0.997))
    assert [i for i in rows if narrow[i] is not None] == [3]
    assert np.array_equal(Masks(cache, rows[::-1])[2], masks[3])


@pytest.mark.parametrize("side", [32, 127])
@pytest.mark.parametrize("coverage", [0.001, 0.05, 0.3, 0.7, 0.9])
def test_the_ellipse_has_the_masks_coverage_and_stands_in_the_middle(side, coverage):
    rng = np.random.default_rng(0)
    mask = np.clip(rng.normal(255 * coverage, 40, (side, side)), 0, 255).astype(np.uint8)
    ellipse = ellipse_like(mask)
    assert ellipse.sum(dtype=int) == mask.sum(dtype=int)
    assert np.isin(ellipse, [0, 255]).sum() >= side * side - 1
    y, x = np.nonzero(ellipse) - np.array((side - 1) / 2)
    assert abs(x.mean()) < 0.5 and abs(y.mean()) < 0.5
    share = mask.mean() / 255
    # where it lies within the image it is a disc in squashed coordinates
    if 9 / side**2 < share < np.pi / 4:
        assert abs(np.hypot(x, y).max() - side * np.sqrt(share / np.pi)) < 1


def test_controls(images, truth_cache, tmp_path):
    cache, found = Cache(truth_cache), open_images(images / "train")
    rows = cache.require(found.paths)
    controls = "none", "truth", "ellipse", "shuffled", "shuffled"
    settings = [config(images, truth_cache, "", control=control) for control in controls]
    plain, truth, ellipse, shuffled, again = (make_masks(s, cache, rows) for s in settings)
    assert np.array_equal(plain[3], truth[3]) and np.array_equal(ellipse[3], ellipse_like(plain[3]))
    assert sorted(shuffled.rows) == sorted(rows) and (shuffled.rows != rows).all()
    assert np.array_equal(shuffled.rows, again.rows)
    build(str(images / "train"), str(tmp_path / "estimated"), Recipe("centre", (), 32))
    wrong = config(images, tmp_path / "estimated", tmp_path / "run", control="truth")
    assert "masks estimated by centre, not true" in refused(train, wrong)


def test_masks_that_cannot_be_pasted_are_refused(images, truth_cache, tmp_path, monkeypatch):
    settings = config(images, truth_cache, tmp_path / "run", mask_coverage=(0.1, 1.0))
    assert 0 < int(open_training_set(settings).usable.split(" of 80 images can")[0]) < 80
    failed = Cache(truth_cache)
    failed.status = np.ones_like(failed.status)
    monkeypatch.setattr("train.dataset.Cache", lambda folder: failed)
    error = "none of the 80 images can be pasted: 80 have no mask"
    assert error in refused(train, settings)
    assert not (tmp_path / "run").exists()
