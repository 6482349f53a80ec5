"""Artificial frames: found where drawn, not where there is none."""

import numpy as np
import pytest

from preprocess.vision.frames import inner_box


def picture(height=200, width=256, top=0, bottom=0, left=0, right=0, colour=255):
    """Noise, with a frame of so many px on each side."""
    rng = np.random.default_rng(1)
    image = np.full((height, width, 3), colour, np.uint8)
    inside = slice(top, height - bottom), slice(left, width - right)
    image[inside] = rng.integers(90, 110, image[inside].shape)
    return image


def box(image):
    rows, columns = inner_box(image)
    return rows.start, rows.stop, columns.start, columns.stop


def test_a_drawn_frame_is_cut():
    image = picture(top=10, bottom=10, left=10, right=10)
    assert box(image) == pytest.approx((10, 190, 10, 246), abs=1)
    assert inner_box(image, False) == (slice(0, 200), slice(0, 256))


def test_sides_without_a_frame_take_the_widest():
    top, bottom, left, right = box(picture(top=12, bottom=8, colour=0))
    assert abs(top - 12) <= 1 and abs(bottom - 192) <= 1
    assert left == top and 256 - right == top


@pytest.mark.parametrize(
    "image",
    [
        picture(),
        np.full((200, 256, 3), 7, np.uint8),
        picture(1, 1),
        picture(2, 256),
        picture(bottom=140),  # an edge deep inside
    ],
)
def test_no_frame(image):
    assert box(image) == (0, image.shape[0], 0, image.shape[1])
