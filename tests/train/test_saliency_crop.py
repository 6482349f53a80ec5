"""Saliency-aware cropping: its law against a plain one, and that it changes nothing else."""

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from data.cache.reader import Cache
from data.cli import UsageError
from data.sources.images import open_images
from tests.train.test_views import CONFIG, pairs
from train.copy_paste import Box
from train.masks import Masks
from train.saliency_crop import keep, kept
from train.streams import VIEW, stream
from train.views import COVERAGE, PARAMETERS, PASTED, random_box


def test_kept_is_the_masks_mass_in_the_box():
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 256, (16, 16), dtype=np.uint8)
    fine = np.kron(
        mask, np.ones((30, 20))
    )  # the image of 320 x 480 pixels that the mask stands for
    for i in range(50):
        box = random_box(stream(VIEW, 0, 0, i), 320, 480, (0.01, 1.0))
        plain = fine[box.y : box.y + box.h, box.x : box.x + box.w].sum() / fine.sum()
        assert kept(cv2.integral(mask), box) == pytest.approx(plain, abs=1e-9)


def test_ten_tries_then_the_best():
    mask = np.zeros((32, 32), np.uint8)
    mask[4:12, 4:12] = 255
    boxes = [
        Box(x, x, 8, 8, 32, 32) for x in (20, 14, 11, 10, 9, 8, 7, 6, 5, 30, 4)
    ]  # the last is an eleventh
    shares = [max(0, 12 - b.x) ** 2 / 64 if b.x > 4 else 1.0 for b in boxes]

    def run(share):
        rest = iter(boxes[1:])
        return keep(mask, boxes[0], share, lambda: next(rest))

    for share in (0.01, 0.2, 0.5, 0.7):
        assert run(share) == next(b for b, s in zip(boxes, shares, strict=True) if s >= share)
    assert run(0.9) == boxes[8]  # none of ten keeps so much; the ninth keeps most


def test_crops_keep_the_share_and_nothing_else_changes(images, truth_cache):
    """Most crops of small objects keep enough; those that did before are the same, pixel for
    pixel."""
    cache = Cache(truth_cache)
    items = [(epoch, index) for epoch in range(3) for index in range(80)]
    plain, kept_ = (
        pairs(images, cache, crop=(0.1, 0.5), crop_keeps=k, paste_p=1.0, soften_p=0.0).__getitems__(
            items
        )
        for k in (0.0, 0.6)
    )
    same = (plain["views"] == kept_["views"]).flatten(2).all(2)
    assert 0.1 < same.float().mean() < 0.9
    colours = [c for c in range(PARAMETERS) if c not in (PASTED, COVERAGE)]
    assert torch.equal(plain["parameters"][..., colours], kept_["parameters"][..., colours])
    more = kept_["parameters"][..., COVERAGE] - plain["parameters"][..., COVERAGE]
    assert more[~same].mean() > 0.1 and (more[same] == 0).all()

    found = open_images(images / "train")
    views = pairs(images, cache, crop=(0.1, 0.5), crop_keeps=0.6).views
    masks = Masks(cache, cache.require(found.paths))
    enough = []
    for index in range(80):
        first = random_box(stream(VIEW, 0, 0, index), 48, 48, (0.1, 0.5))
        sums = cv2.integral(masks[index])
        box = views._keep(masks[index], first, 0, index, 0)
        enough.append(kept(sums, box) >= 0.6)
        assert kept(sums, box) >= kept(sums, first)
        if kept(sums, first) >= 0.6:
            assert box == first
    assert np.mean(enough) > 0.85


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"crop_keeps": 1.2}, "a share is in 0..1"),
        ({"crop_keeps": 0.2, "masks": "none"}, "needs --masks CACHE"),
    ],
)
def test_bad_settings_are_one_line(changes, said):
    with pytest.raises(UsageError, match=said):
        dataclasses.replace(CONFIG, **changes).check()
