"""Views and their order: streams that depend on what is drawn and not on who draws it."""

import functools
import operator

import numpy as np
import pytest
import torch

from data.cache.reader import Cache
from data.sources.images import ImageError, Images, decode, open_images
from preprocess.pipeline import build
from preprocess.recipe import Recipe
from train.dataset import TrainingSet
from train.loader import Order, Pairs
from train.masks import Masks
from train.parameters import COVERAGE, PARAMETERS, PASTED
from train.presets import configure
from train.streams import stream


def pairs(images, cache, **changes) -> Pairs:
    """Views as the demo's preset has them, of `images` (a folder, or what open_images gave)."""
    found = images if isinstance(images, Images) else open_images(images / "train")
    masks = Masks(cache, cache.require(found.paths)) if cache else None
    config = configure("moco_v2_demo", images="", out="", **changes)
    return Pairs(config, TrainingSet(found, masks))


def test_runs_that_differ_only_in_masks_see_the_same_crops_and_colours(images, truth_cache):
    items = [(epoch, index) for epoch in range(2) for index in range(80)]
    without = pairs(images, None).__getitems__(items)
    with_masks = pairs(images, Cache(truth_cache)).__getitems__(items)
    pasted = with_masks["parameters"][..., PASTED] > 0
    assert 0.2 < pasted.float().mean() < 0.4 and not without["parameters"][..., PASTED].any()
    coverage = with_masks["parameters"][..., COVERAGE]
    assert (coverage[~pasted] == 0).all() and (coverage[pasted] <= 1).all()
    assert 0.05 < coverage[pasted].mean() < 0.5
    colours = [c for c in range(PARAMETERS) if c not in (PASTED, COVERAGE)]
    assert torch.equal(without["parameters"][..., colours], with_masks["parameters"][..., colours])
    assert torch.equal(without["views"][~pasted], with_masks["views"][~pasted])
    assert (without["views"][pasted] != with_masks["views"][pasted]).flatten(1).any(1).all()
    # where the mask is full the pasted view is still the same crop
    full = with_masks["views"][pasted].float() - without["views"][pasted].float()
    assert (full == 0).all(-1).flatten(1).float().mean() > 0.05


def test_a_view_does_not_depend_on_its_batch_nor_on_the_second(images, truth_cache):
    data = pairs(images, Cache(truth_cache))
    alone = data.__getitems__([(3, 17)])
    among = data.__getitems__([(3, 5), (3, 17), (0, 17)])
    assert torch.equal(alone["views"][:, 0], among["views"][:, 1])
    assert not torch.equal(alone["views"][:, 0], among["views"][:, 2])  # another epoch
    assert not torch.equal(alone["views"][0], alone["views"][1])
    first = pairs(images, Cache(truth_cache), method="instdisc").__getitems__([(3, 17)])
    assert first["views"].shape[0] == 1 and torch.equal(first["views"][0], alone["views"][0])
    assert torch.equal(first["parameters"][0], alone["parameters"][0])


def test_failed_and_empty_masks_are_never_pasted(images, truth_cache):
    data = pairs(images, Cache(truth_cache), paste_p=1.0)
    cache = data.data.masks.cache
    cache.status = cache.status.copy()
    cache.status[:40] = 1
    pasted = data.__getitems__([(0, i) for i in range(80)])["parameters"][..., PASTED]
    assert not pasted[:, :40].any() and pasted[:, 40:].all()


def test_a_broken_image_gives_its_place_to_the_next_under_its_own_number(images, tmp_path):
    (tmp_path / "train").mkdir()
    content = (images / "train" / "class0" / "000.png").read_bytes()
    for name, data in (("a.png", b"broken"), ("b.png", content), ("c.png", content)):
        (tmp_path / "train" / name).write_bytes(data)
    batch = pairs(tmp_path, None).__getitems__([(0, 0), (0, 1), (0, 2)])
    assert batch["views"].float().std() > 10
    assert batch["index"].tolist() == [1, 1, 2] and batch["replaced"] == 1


def test_order_resumes_in_the_middle_of_an_epoch():
    whole = list(Order(103, 10, 3, seed=5, start=0))
    assert len(whole) == 30 and list(Order(103, 10, 3, 5, start=17)) == whole[17:]
    for epoch in range(3):
        seen = [i for batch in whole[10 * epoch : 10 * epoch + 10] for e, i in batch if e == epoch]
        assert len(set(seen)) == 100
    assert whole[0] != [(0, i) for _, i in whole[10]]


def test_the_parts_of_all_processes_are_the_batch_of_one():
    whole = list(Order(103, 12, 2, seed=5, start=3))
    parts = [list(Order(103, 12, 2, 5, 3, rank, 3)) for rank in range(3)]
    assert all(len(batch) == 4 for part in parts for batch in part)
    joined = [functools.reduce(operator.iadd, batches, []) for batches in zip(*parts, strict=True)]
    assert joined == whole


@pytest.mark.parametrize(
    "draw", [(0, 0, 0, 0, 0), (5, 7, 3, 2**40, 9), (255, 2**32 - 1, 2**32 - 1, 2**52 - 1, 15)]
)
def test_a_stream_is_numpys_philox_with_this_key(draw):
    purpose, seed, epoch, index, view = draw
    key = [seed << 32 | epoch, index << 12 | view << 8 | purpose]
    expected = np.random.Generator(np.random.Philox(key=key)).integers(0, 2**63, 9)
    assert (stream(*draw).integers(0, 2**63, 9) == expected).all()


def test_a_row_has_a_mask_exactly_where_the_trainer_has_an_image(shared, tmp_path):
    root = shared / "odd_images"
    build(str(root), str(tmp_path / "cache"), Recipe("spectral", (), 32))
    cache, images = Cache(tmp_path / "cache"), open_images(root)
    sizes = cache.column("size")
    data = pairs(images, cache)
    masks, read = data.data.masks, data.__getitems__([(0, row) for row in range(len(images))])
    for row in range(len(images)):
        try:
            image = decode(images.read(row))
        except ImageError:
            assert cache.status[row] and masks[row] is None and not cache.mask(row).any()
            continue
        assert cache.status[row] == 0 and sizes[row].tolist() == list(image.shape[:2])
        assert read["index"][row] == row
