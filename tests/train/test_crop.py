"""Crops: torchvision's law, OpenCV's numbers, masks at sub-pixel places, and crops that keep the
foreground."""

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from data.cache.reader import Cache
from tests.train.runs import pairs
from train.crop import Box, crop_mask, keep, kept, random_box, resize_crop
from train.parameters import COVERAGE, PARAMETERS, PASTED
from train.streams import VIEW, stream


def test_crops_follow_torchvisions_law():
    """Area, aspect and place over 10,000 draws, within four standard errors of torchvision's."""
    torch.manual_seed(0)
    law = torch.zeros(3, 375, 500), (0.2, 1.0), (3 / 4, 4 / 3)
    theirs = np.array([RandomResizedCrop.get_params(*law) for _ in range(10_000)], float)
    boxes = [random_box(stream(VIEW, 0, 0, i), 500, 375, (0.2, 1.0)) for i in range(10_000)]
    ours = np.array([(b.y, b.x, b.h, b.w) for b in boxes], float)
    measured = []
    for b in (ours, theirs):
        measured.append((b[:, 2] * b[:, 3], np.log(b[:, 3] / b[:, 2]), b[:, 0], b[:, 1]))
    for a, b in zip(*measured, strict=True):
        assert abs(a.mean() - b.mean()) < 4 * np.sqrt((a.var() + b.var()) / 10_000)
        assert abs(a.std() - b.std()) < 0.04 * b.std()
    boxes += [
        random_box(stream(VIEW, 0), *size, (0.2, 1.0)) for size in ((1, 1), (3000, 2), (2, 9))
    ]
    assert all(0 <= b.x < b.x + b.w <= b.width and 0 <= b.y < b.y + b.h <= b.height for b in boxes)


@pytest.mark.parametrize(
    ("w", "h", "size"), [(64, 64, 64), (65, 90, 64), (399, 299, 20), (20, 20, 32), (60, 25, 32)]
)
def test_a_crop_is_opencvs_whether_it_grows_or_shrinks(w, h, size):
    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3)).astype(np.uint8)
    x, y = 400 - w, (300 - h) // 2
    law = cv2.INTER_AREA if w * h > size**2 else cv2.INTER_LINEAR
    expected = cv2.resize(picture[y : y + h, x:], (size, size), interpolation=law).astype(int)
    box, into = Box(x, y, w, h, 400, 300), np.zeros((2, size, size, 3), np.uint8)
    for flip in (False, True):
        wanted = expected[:, ::-1] if flip else expected
        difference = np.abs(resize_crop(picture, box, size, flip, into[1]) - wanted)
        # OpenCV rounds a half to the even neighbour
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01
        assert np.array_equal(into[1], resize_crop(picture, box, size, flip)) and not into[0].any()
    strided = resize_crop(np.stack([picture, picture], 3)[..., 1], box, size).astype(int)
    assert np.abs(strided - expected).max() <= 1


def test_crop_of_a_mask_is_sub_pixel():
    """A crop by a fraction of a mask pixel moves a linear ramp by that fraction, whatever the
    crop's size."""
    ramp = np.tile(np.arange(128, dtype=np.uint8), (128, 1))
    for x, y, w, h in ((101, 0, 300, 375), (7, 30, 50, 60), (1, 1, 498, 370)):
        for size in (32, 224):
            # mask coordinate of each column
            at = (x + (np.arange(size) + 0.5) * w / size) * 128 / 500 - 0.5
            crop = crop_mask(ramp, Box(x, y, w, h, 500, 375), size)
            inside = (at > 1) & (at < 126)
            assert np.abs(crop[:, inside] - at[inside]).max() <= 1.01, (x, size)


def test_a_fine_mask_is_averaged_not_skipped():
    lines = np.zeros((128, 128), np.uint8)
    lines[:, ::2] = 255
    out = crop_mask(lines, Box(0, 0, 64, 64, 64, 64), 16)
    assert np.abs(out[:, 1:-1].astype(int) - 128).max() <= 2


def test_kept_is_the_masks_mass_in_the_box():
    mask = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    fine = np.kron(mask, np.ones((30, 20)))  # the image of 320 x 480 that the mask stands for
    for i in range(50):
        box = random_box(stream(VIEW, 0, 0, i), 320, 480, (0.01, 1.0))
        plain = fine[box.y : box.y + box.h, box.x : box.x + box.w].sum() / fine.sum()
        assert kept(mask, box) == pytest.approx(plain, abs=1e-9)


def test_ten_tries_then_the_best():
    mask = np.zeros((32, 32), np.uint8)
    mask[4:12, 4:12] = 255
    # the last is an eleventh
    boxes = [Box(x, x, 8, 8, 32, 32) for x in (20, 14, 11, 10, 9, 8, 7, 6, 5, 30, 4)]
    # of the 8 x 8 px of the mask a box at x > 4 holds (12 - x)^2; 0.9: none of ten holds so much
    for share, chosen in ((0.01, 11), (0.2, 8), (0.5, 6), (0.7, 5), (0.9, 5)):
        rest = iter(boxes[1:])
        assert keep(mask, boxes[0], share, lambda rest=rest: next(rest)).x == chosen


def test_crops_keep_the_share_and_nothing_else_changes(images, truth_cache):
    """Crops that kept enough before are the same, pixel for pixel; the others hold more of the
    foreground."""
    cache = Cache(truth_cache)
    items = [(epoch, index) for epoch in range(3) for index in range(80)]
    changes = {"crop": (0.1, 0.5), "paste_p": 1.0, "soften_p": 0.0}
    plain, keeping = (
        pairs(images, cache, crop_keeps=share, **changes).__getitems__(items)
        for share in (0.0, 0.6)
    )
    same = (plain["views"] == keeping["views"]).flatten(2).all(2)
    assert 0.1 < same.float().mean() < 0.9
    colours = [c for c in range(PARAMETERS) if c not in (PASTED, COVERAGE)]
    assert torch.equal(plain["parameters"][..., colours], keeping["parameters"][..., colours])
    more = keeping["parameters"][..., COVERAGE] - plain["parameters"][..., COVERAGE]
    assert more[~same].mean() > 0.1 and (more[same] == 0).all()
