"""Barrier distance and grey-scale reconstruction against exact and independent ones."""

import cv2
import numpy as np
import pytest
from scipy.ndimage import label
from skimage.morphology import reconstruction

from preprocess.vision import barrier, morphology


def exact_barrier(plane):
    """Barrier distance of each pixel by all pairs of bounds: a pixel's is the least high - low such
    that the pixels between them connect it to the border. Exact for one channel."""
    best = np.full(plane.shape, np.inf)
    border = np.ones(plane.shape, bool)
    border[1:-1, 1:-1] = False
    values = np.unique(plane)
    for low in values:
        for high in values[values >= low]:
            parts, _ = label((plane >= low) & (plane <= high))
            reached = np.isin(parts, parts[border & (parts > 0)])
            best[reached] = np.minimum(best[reached], float(high) - low)
    return best


def test_barrier_distance_of_a_plateau_with_a_dip():
    plane = np.full((30, 40), 50, np.uint8)
    plane[10:20, 10:30] = 200
    plane[13:17, 15:25] = 120  # the wall must be crossed
    distance = barrier.minimum_barrier(np.stack([plane] * 3, 2)) / 3
    assert np.array_equal(distance, np.where(plane > 50, 150, 0))
    assert np.array_equal(distance, exact_barrier(plane))


def test_barrier_distance_is_near_the_exact_one():
    rng = np.random.default_rng(0)
    plane = cv2.GaussianBlur(rng.integers(0, 256, (30, 36)).astype(np.uint8), (0, 0), 2) // 4 * 4
    distance = barrier.minimum_barrier(np.stack([plane] * 3, 2)) / 3
    exact = exact_barrier(plane)
    assert (distance >= exact - 1e-6).all()  # the raster passes give an upper bound
    assert np.abs(distance - exact).mean() < 0.05 * exact.max()


@pytest.mark.parametrize("seed", [0, 1])
def test_reconstruction_equals_scikit_images(seed):
    rng = np.random.default_rng(seed)
    mask = cv2.GaussianBlur(rng.integers(0, 256, (50, 70)).astype(np.uint8), (0, 0), 1.5)
    marker = cv2.erode(mask, np.ones((7, 7), np.uint8))
    expected = reconstruction(marker, mask, method="dilation", footprint=np.ones((3, 3)))
    assert np.array_equal(morphology.reconstruct(marker, mask), expected)


def test_opening_closing_removes_spots_and_keeps_contours():
    expected = np.zeros((60, 60), np.uint8)
    expected[20:45, 20:45] = 200
    image = expected.copy()
    image[5:8, 5:8] = 200
    image[30:33, 30:33] = 0
    assert np.array_equal(morphology.opening_closing(image, 7), expected)
