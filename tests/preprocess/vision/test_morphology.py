"""Barrier distance and grey-scale reconstruction against exact and independent ones."""

import heapq

import cv2
import numpy as np
import pytest
from skimage.morphology import reconstruction

from preprocess.vision import barrier, morphology


def exact_barrier(plane):
    """Barrier distance of each pixel by search over all lower bounds: exact for one channel."""
    height, width = plane.shape
    best = np.full(plane.shape, np.inf)
    for low in np.unique(plane):
        top = np.full(
            plane.shape, np.inf
        )  # of the lowest possible maxima of paths that stay at or above `low`
        heap = [
            (int(plane[y, x]), y, x)
            for y in range(height)
            for x in range(width)
            if (y in (0, height - 1) or x in (0, width - 1)) and plane[y, x] >= low
        ]
        heapq.heapify(heap)
        while heap:
            value, y, x = heapq.heappop(heap)
            if top[y, x] <= value:
                continue
            top[y, x] = value
            for ny, nx in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if (
                    0 <= ny < height
                    and 0 <= nx < width
                    and plane[ny, nx] >= low
                    and top[ny, nx] == np.inf
                ):
                    heapq.heappush(heap, (max(value, int(plane[ny, nx])), ny, nx))
        best = np.minimum(best, top - low)
    return best


def test_barrier_distance():
    plane = np.full((30, 40), 50, np.uint8)
    plane[10:20, 10:30] = 200  # a plateau
    plane[13:17, 15:25] = 120  # and a dip in it: the wall must be crossed
    found = barrier.minimum_barrier(np.stack([plane] * 3, 2)) / 3
    assert found[0].max() == 0 and found[5, 5] == 0
    assert found[11, 11] == 150 and found[15, 20] == 150


def test_barrier_distance_is_near_the_exact_one():
    rng = np.random.default_rng(0)
    plane = cv2.GaussianBlur(rng.integers(0, 256, (30, 36)).astype(np.uint8), (0, 0), 2)
    found = barrier.minimum_barrier(np.stack([plane] * 3, 2)) / 3
    exact = exact_barrier(plane)
    assert (found >= exact - 1e-6).all()  # the raster passes give an upper bound
    assert np.abs(found - exact).mean() < 0.05 * exact.max()


@pytest.mark.parametrize("seed", [0, 1])
def test_reconstruction_equals_scikit_images(seed):
    rng = np.random.default_rng(seed)
    mask = cv2.GaussianBlur(rng.integers(0, 256, (50, 70)).astype(np.uint8), (0, 0), 1.5)
    marker = cv2.erode(mask, np.ones((7, 7), np.uint8))
    expected = reconstruction(marker, mask, method="dilation", footprint=np.ones((3, 3)))
    assert np.array_equal(morphology.reconstruct(marker, mask), expected)


def test_opening_closing_removes_spots_and_keeps_contours():
    image = np.zeros((60, 60), np.uint8)
    image[20:45, 20:45] = 200
    image[5:8, 5:8] = 200
    image[30:33, 30:33] = 0
    cleaned = morphology.opening_closing(image, 7)
    expected = np.zeros_like(image)
    expected[20:45, 20:45] = 200
    assert np.array_equal(cleaned, expected)
