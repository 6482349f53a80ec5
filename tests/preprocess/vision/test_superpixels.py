"""SLIC: every label one connected region, about as many as wanted, along the edges of the image's
colours."""

import cv2
import numpy as np
import pytest

from preprocess.vision.pixels import lab_planes
from preprocess.vision.superpixels import slic


@pytest.mark.parametrize("shape", [(192, 256), (64, 64), (100, 250)])
def test_about_two_hundred_connected_superpixels_none_small_nor_huge(shape):
    coarse = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    picture = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    labels, count = slic(lab_planes(picture))
    assert labels.shape == shape and np.array_equal(np.unique(labels), np.arange(count))
    assert 170 <= count <= 230
    for label in range(count):
        assert cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=4)[0] == 2
    sizes, mean = np.bincount(labels.ravel()), labels.size / 200
    assert sizes.min() > mean / 4 * 0.9 and sizes.max() < 4 * mean


def test_follows_a_strong_edge():
    image = np.zeros((128, 128, 3), np.uint8)
    image[:, 70:] = 255
    labels, _ = slic(lab_planes(image))
    assert not np.intersect1d(labels[:, :70], labels[:, 70:]).size


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (3, 3), (8, 500), (256, 1), (1, 256)])
def test_tiny_and_narrow_images(shape):
    labels, count = slic(lab_planes(np.full((*shape, 3), 99, np.uint8)))
    assert labels.shape == shape and np.array_equal(np.unique(labels), np.arange(count))
