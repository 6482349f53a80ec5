"""Agreement of masks, and pictures of them."""

import numpy as np

from data.cache.reader import Cache
from evaluate.masks.agreement import mask_agreement
from evaluate.masks.examples import overlay


def test_mask_agreement_of_a_cache_with_itself(truth_cache):
    cache = Cache(truth_cache)
    assert mask_agreement(cache, cache) == {"mae": 0.0, "iou": 1.0}


def test_overlay_keeps_the_foreground():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(overlay(image, np.full((8, 8), 255, np.uint8)), image)
    assert not np.array_equal(overlay(image, np.zeros((8, 8), np.uint8)), image)
