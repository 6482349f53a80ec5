"""Views: the laws of torchvision's transforms, and streams that do not depend on who draws."""

import dataclasses
import functools
import operator

import numpy as np
import pytest
import torch
from torchvision.transforms import ColorJitter, GaussianBlur, RandomResizedCrop
from torchvision.transforms import functional as tv

from data.cache.reader import Cache
from data.sources.images import open_images
from train.config import Config
from train.loader import Order, Pairs
from train.masks import Masks, shuffled_rows
from train.photometric import MEAN, OPERATIONS, ORDERS, STD, blur, hue, photometric
from train.presets import moco_v2_demo
from train.streams import VIEW, stream
from train.views import (
    BRIGHTNESS,
    CONTRAST,
    COVERAGE,
    GREY,
    HUE,
    ORDER,
    PARAMETERS,
    PASTED,
    SATURATION,
    SIGMA,
    Views,
    random_box,
)

CONFIG = Config(images="", out="", **moco_v2_demo())


def pairs(images, cache, **changes) -> Pairs:
    found = open_images(images / "train")
    masks = Masks(cache, cache.require(found.paths)) if cache else None
    return Pairs(found, Views.of(dataclasses.replace(CONFIG, **changes)), masks)


def test_runs_that_differ_only_in_masks_see_the_same_crops_and_colours(images, truth_cache):
    items = [(epoch, index) for epoch in range(2) for index in range(80)]
    without = pairs(images, None).__getitems__(items)
    with_masks = pairs(images, Cache(truth_cache)).__getitems__(items)
    pasted = with_masks["parameters"][..., PASTED] > 0
    assert 0.2 < pasted.float().mean() < 0.4 and not without["parameters"][..., PASTED].any()
    coverage = with_masks["parameters"][..., COVERAGE]
    assert (
        (coverage[~pasted] == 0).all()
        and (coverage[pasted] <= 1).all()
        and 0.05 < coverage[pasted].mean() < 0.5
    )
    colours = [c for c in range(PARAMETERS) if c not in (PASTED, COVERAGE)]
    assert torch.equal(without["parameters"][..., colours], with_masks["parameters"][..., colours])
    assert torch.equal(without["views"][~pasted], with_masks["views"][~pasted])
    assert (without["views"][pasted] != with_masks["views"][pasted]).flatten(1).any(1).all()
    # where the mask is full the pasted view is still the same crop
    full = with_masks["views"][pasted].float() - without["views"][pasted].float()
    assert (full == 0).all(-1).flatten(1).float().mean() > 0.05


def test_a_view_does_not_depend_on_its_batch(images, truth_cache):
    data = pairs(images, Cache(truth_cache))
    alone = data.__getitems__([(3, 17)])
    among = data.__getitems__([(3, 5), (3, 17), (0, 17)])
    assert torch.equal(alone["views"][:, 0], among["views"][:, 1])
    assert not torch.equal(
        alone["views"][:, 0], among["views"][:, 2]
    )  # another epoch, another view
    assert not torch.equal(alone["views"][0], alone["views"][1])


def test_failed_and_empty_masks_are_never_pasted(images, truth_cache):
    data = pairs(images, Cache(truth_cache), paste_p=1.0)
    data.masks.cache.status = data.masks.cache.status.copy()
    data.masks.cache.status[:40] = 1
    pasted = data.__getitems__([(0, i) for i in range(80)])["parameters"][..., PASTED]
    assert not pasted[:, :40].any() and pasted[:, 40:].all()


def test_a_broken_image_gives_its_place_to_the_next(images, tmp_path):
    (tmp_path / "train").mkdir()
    content = (images / "train" / "class0" / "000.png").read_bytes()
    for name, data in (("a.png", b"broken"), ("b.png", content), ("c.png", content)):
        (tmp_path / "train" / name).write_bytes(data)
    batch = pairs(tmp_path, None).__getitems__([(0, 0), (0, 1)])
    assert batch["views"].float().std() > 10


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
    assert [
        functools.reduce(operator.iadd, batches, []) for batches in zip(*parts, strict=True)
    ] == whole
    with pytest.raises(ValueError, match="cannot be shared"):
        Order(103, 10, 2, 5, 0, 0, 3)


@pytest.mark.parametrize(
    "draw", [(0, 0, 0, 0, 0), (5, 7, 3, 2**40, 9), (255, 2**32 - 1, 2**32 - 1, 2**52 - 1, 15)]
)
def test_a_stream_is_numpys_philox_with_this_key(draw):
    purpose, seed, epoch, index, view = draw
    key = [seed << 32 | epoch, index << 12 | view << 8 | purpose]
    expected = np.random.Generator(np.random.Philox(key=key)).integers(0, 2**63, 9)
    assert (stream(*draw).integers(0, 2**63, 9) == expected).all()


def test_one_view_is_the_first_of_two(images, truth_cache):
    two = pairs(images, Cache(truth_cache))
    one = Pairs(two.images, two.views, two.masks, count=1)
    items = [(0, i) for i in range(20)]
    first, both = one.__getitems__(items), two.__getitems__(items)
    assert first["views"].shape[0] == 1 and torch.equal(first["views"][0], both["views"][0])
    assert torch.equal(first["parameters"][0], both["parameters"][0])


def test_shuffled_control_is_a_derangement():
    rows = np.arange(100) + 7
    shuffled = shuffled_rows(rows, seed=1)
    assert sorted(shuffled) == sorted(rows) and (shuffled != rows).all()
    assert np.array_equal(shuffled, shuffled_rows(rows, seed=1))


def test_crops_follow_torchvisions_law():
    """Area, aspect and place over 10,000 draws, within four standard errors of torchvision's."""
    torch.manual_seed(0)
    picture = torch.zeros(3, 375, 500)
    theirs = np.array(
        [RandomResizedCrop.get_params(picture, (0.2, 1.0), (3 / 4, 4 / 3)) for _ in range(10_000)],
        float,
    )
    boxes = [random_box(stream(VIEW, 0, 0, i), 500, 375, (0.2, 1.0)) for i in range(10_000)]
    ours = np.array([(b.y, b.x, b.h, b.w) for b in boxes], float)
    for law in (
        lambda b: b[:, 2] * b[:, 3],
        lambda b: np.log(b[:, 3] / b[:, 2]),
        lambda b: b[:, 0],
        lambda b: b[:, 1],
    ):
        a, b = law(ours), law(theirs)
        assert abs(a.mean() - b.mean()) < 4 * np.sqrt((a.var() + b.var()) / 10_000)
        assert abs(a.std() - b.std()) < 0.04 * b.std()
    assert all(0 <= b.x and b.x + b.w <= 500 and 0 <= b.y and b.y + b.h <= 375 for b in boxes)
    for width, height in ((1, 1), (3000, 2), (2, 3000)):
        box = random_box(stream(VIEW, 0), width, height, (0.2, 1.0))
        assert 0 < box.w <= width and 0 < box.h <= height


def test_photometric_operations_are_torchvisions():
    pictures = torch.rand(6, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    factors = torch.tensor([0.2, 0.6, 1.0, 1.3, 1.9, 0.0])
    for operation, theirs in (
        (BRIGHTNESS, tv.adjust_brightness),
        (CONTRAST, tv.adjust_contrast),
        (SATURATION, tv.adjust_saturation),
    ):
        ours = OPERATIONS[operation](pictures, factors[:, None, None, None])
        expected = torch.stack(
            [theirs(p, f.item()) for p, f in zip(pictures, factors, strict=True)]
        )
        assert (ours - expected).abs().max() < 2e-4, operation
    shifts = torch.tensor([-0.5, -0.2, 0.0, 0.1, 0.33, 0.5])
    expected = torch.stack(
        [tv.adjust_hue(p, s.item()) for p, s in zip(pictures, shifts, strict=True)]
    )
    assert (hue(pictures, shifts[:, None, None, None]) - expected).abs().max() < 1e-4
    sigma = torch.tensor([0.1, 0.5, 1.0, 1.5, 2.0, 0.3])
    expected = torch.stack(
        [tv.gaussian_blur(p, [23, 23], [s.item()]) for p, s in zip(pictures, sigma, strict=True)]
    )
    assert (blur(pictures, sigma) - expected).abs().max() < 1e-4


def test_a_batch_gets_each_samples_own_parameters_in_its_own_order():
    views = torch.randint(
        0, 256, (40, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    parameters = torch.zeros(40, PARAMETERS)
    makes = Views.of(dataclasses.replace(CONFIG, blur_p=0.5))
    for i in range(40):
        row = np.zeros(PARAMETERS, np.float32)
        makes._photometric(stream(VIEW, 0, 0, i), row)
        parameters[i] = torch.from_numpy(row)
    assert (
        (parameters[:, ORDER] < 0).any()
        and parameters[:, GREY].any()
        and (parameters[:, SIGMA] > 0).any()
    )
    ours = photometric(views, parameters, torch.device("cpu"))
    adjust = {
        BRIGHTNESS: tv.adjust_brightness,
        CONTRAST: tv.adjust_contrast,
        SATURATION: tv.adjust_saturation,
        HUE: tv.adjust_hue,
    }
    for i in range(40):
        picture = views[i].permute(2, 0, 1).float() / 255
        if parameters[i, ORDER] >= 0:
            for operation in ORDERS[int(parameters[i, ORDER])].tolist():
                picture = adjust[operation](picture, parameters[i, operation].item())
        if parameters[i, GREY]:
            picture = tv.rgb_to_grayscale(picture, 3)
        if parameters[i, SIGMA]:
            picture = tv.gaussian_blur(picture, [15, 15], [parameters[i, SIGMA].item()])
        assert (ours[i] - tv.normalize(picture, MEAN, STD)).abs().max() < 5e-3, i


def same_law(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Two samples of 10,000 from one law: the Kolmogorov-Smirnov distance stays below its
    1-in-10,000 bound."""
    at = np.sort(np.concatenate([ours, theirs]))
    below = [np.searchsorted(np.sort(x), at, side="right") / len(x) for x in (ours, theirs)]
    return bool(np.abs(below[0] - below[1]).max() < 2.23 * np.sqrt(1 / len(ours) + 1 / len(theirs)))


def test_jitter_and_blur_follow_torchvisions_law():
    """Factors, order and sigma of 10,000 draws; how often each happens, within four standard
    errors."""
    torch.manual_seed(0)
    makes = Views.of(
        dataclasses.replace(
            CONFIG, jitter=(0.4, 0.3, 0.9, 0.1), jitter_p=0.8, grey_p=0.2, blur_p=0.5
        )
    )
    rows = np.zeros((10_000, PARAMETERS), np.float32)
    for i, row in enumerate(rows):
        makes._photometric(stream(VIEW, 0, 0, i), row)
    jitter = ColorJitter(0.4, 0.3, 0.9, 0.1)
    drawn = [
        ColorJitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        for _ in range(10_000)
    ]
    for column, factor in ((BRIGHTNESS, 1), (CONTRAST, 2), (SATURATION, 3), (HUE, 4)):
        assert same_law(rows[:, column], np.array([d[factor] for d in drawn])), column
    orders = rows[rows[:, ORDER] >= 0, ORDER].astype(int)
    counts = np.bincount(
        orders, minlength=24
    )  # chi-squared, 23 degrees of freedom: above 60 once in 30,000
    assert len(counts) == 24 and ((counts - len(orders) / 24) ** 2).sum() / (len(orders) / 24) < 60
    sigma = rows[rows[:, SIGMA] > 0, SIGMA]
    low, high = CONFIG.blur_sigma
    assert same_law(sigma, np.array([GaussianBlur.get_params(low, high) for _ in range(10_000)]))
    for happened, p in (
        (rows[:, ORDER] >= 0, 0.8),
        (rows[:, GREY] > 0, 0.2),
        (rows[:, SIGMA] > 0, 0.5),
    ):
        assert abs(happened.mean() - p) < 4 * np.sqrt(p * (1 - p) / 10_000)
    assert not same_law(
        rows[:, BRIGHTNESS], rows[:, BRIGHTNESS] * 0.97 + 0.01
    )  # the test does see a change
