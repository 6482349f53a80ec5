"""SLIC: every label one connected region, about as many as wanted, along the edges of the image's
colours."""

import cv2
import numpy as np
import pytest

from preprocess.vision.pixels import lab_planes
from preprocess.vision.superpixels import slic


def picture(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 20), max(2, width // 20), 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("shape", [(192, 256), (256, 192), (128, 128), (64, 64), (100, 250)])
def test_about_two_hundred_connected_superpixels(shape):
    labels, count = slic(lab_planes(picture(*shape)))
    assert labels.shape == shape and labels.min() == 0 and labels.max() == count - 1
    assert 170 <= count <= 230
    for label in range(count):
        assert cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=4)[0] == 2


def test_no_superpixel_is_small_nor_huge():
    labels, _ = slic(lab_planes(picture(192, 256)))
    sizes = np.bincount(labels.ravel())
    mean = 192 * 256 / 200
    assert sizes.min() > mean / 4 * 0.9 and sizes.max() < 4 * mean


def test_follows_a_strong_edge():
    image = np.zeros((128, 128, 3), np.uint8)
    image[:, 70:] = 255
    labels, _ = slic(lab_planes(image))
    left, right = np.unique(labels[:, :70]), np.unique(labels[:, 70:])
    assert not np.intersect1d(left, right).size


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 2), (2, 1), (3, 3), (12, 12), (8, 500), (256, 1), (1, 256)]
)
def test_tiny_and_narrow_images(shape):
    labels, count = slic(lab_planes(np.full((*shape, 3), 99, np.uint8)))
    assert labels.shape == shape and np.array_equal(np.unique(labels), np.arange(count))
