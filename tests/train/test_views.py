"""Views and their order: streams that depend on what is drawn and not on who draws it."""

import functools
import operator

import numpy as np
import pytest
import torch

from data.cache.reader import Cache
from data.sources.images import ImageError, decode, open_images
from preprocess.pipeline import build
from preprocess.recipe import Recipe
from tests.train.runs import pairs
from train.loader import Order
from train.parameters import COVERAGE, PARAMETERS, PASTED
from train.streams import stream


def test_runs_that_differ_only_in_masks_see_the_same_crops_and_colours(images, truth_cache):
    items = [(epoch, index) for epoch in range(2) for index in range(80)]
    without = pairs(images, None).__getitems__(items)
    with_masks = pairs(images, Cache(truth_cache)).__getitems__(items)
    pasted = with_masks["parameters"][..., PASTED] > 0
    assert 0.2 < pasted.float().mean() < 0.4 and not without["parameters"][..., PASTED].any()
    coverage = with_masks["parameters"][..., COVERAGE]
    assert (coverage[~pasted] == 0).all() and 0.05 < coverage[pasted].mean() < 0.5
    colours = [c for c in range(PARAMETERS) if c not in (PASTED, COVERAGE)]
    assert torch.equal(without["parameters"][..., colours], with_masks["parameters"][..., colours])
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


def test_order_resumes_and_its_parts_are_the_batch_of_one():
    whole = list(Order(103, 12, 3, seed=5, start=0))
    assert len(whole) == 24 and list(Order(103, 12, 3, 5, start=17)) == whole[17:]
    for epoch in range(3):
        seen = [i for batch in whole[8 * epoch : 8 * epoch + 8] for e, i in batch if e == epoch]
        assert len(set(seen)) == 96
    assert whole[0] != [(0, i) for _, i in whole[8]]
    parts = [list(Order(103, 12, 3, 5, 3, rank, 3)) for rank in range(3)]
    assert all(len(batch) == 4 for part in parts for batch in part)
    joined = [functools.reduce(operator.iadd, batches, []) for batches in zip(*parts, strict=True)]
    assert joined == whole[3:]


@pytest.mark.parametrize(
    "draw", [(0, 0, 0, 0, 0), (5, 7, 3, 2**40, 9), (255, 2**32 - 1, 2**32 - 1, 2**52 - 1, 15)]
)
def test_a_stream_is_numpys_philox_with_this_key(draw):
    purpose, seed, epoch, index, view = draw
    key = [seed << 32 | epoch, index << 12 | view << 8 | purpose]
    expected = np.random.Generator(np.random.Philox(key=key)).integers(0, 2**63, 9)
    assert (stream(*draw).integers(0, 2**63, 9) == expected).all()


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
        except ImageError:
            assert cache.status[row] and data.data.masks[row] is None
            assert not cache.mask(row).any() and read["index"][row] != row
            continue
        assert cache.status[row] == 0 and read["index"][row] == row
        assert cache.column("size")[row].tolist() == list(image.shape[:2])
    assert read["replaced"] == (cache.status != 0).sum() > 0
