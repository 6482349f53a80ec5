"""Artificial frames: found where drawn, not where there is none."""

import numpy as np
import pytest

from preprocess.estimators import load
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


def catalogue(top=0, bottom=0, left=0, right=0, colour=255):
    """A dark disc on a grey photograph with such margins, and where the disc is."""
    y, x = np.mgrid[:150, :200]
    photograph = np.random.default_rng(0).normal(130 + x / 8, 6, (150, 200))
    disc = np.hypot(y - 70, x - 90) < 30
    photograph[disc] -= 100
    margins = (top, bottom), (left, right)
    grey = np.pad(np.clip(photograph, 0, 255), margins, constant_values=colour)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, 2), np.pad(disc, margins)


@pytest.mark.parametrize(
    "margins",
    [
        {"top": 50, "bottom": 50, "left": 65, "right": 65},
        {"top": 40, "bottom": 60},
        {"left": 90, "right": 30, "colour": 0},
        {"top": 60, "left": 60},
        {"top": 50, "bottom": 50, "left": 65, "colour": 200},
    ],
)
@pytest.mark.parametrize("name", ["rbd", "mbd", "fusion"])
def test_the_object_of_a_picture_with_wide_margins_is_within_the_picture(margins, name):
    image, disc = catalogue(**margins)
    saliency = load(name)(image) > 0.5
    assert (saliency & disc).sum() / (saliency | disc).sum() > 0.6


def test_an_object_on_a_plain_ground_is_no_picture_with_margins():
    y, x = np.mgrid[:200, :256]
    image = np.full((200, 256, 3), 250, np.uint8)
    image[np.hypot(y - 100, x - 128) < 60] = (200, 40, 40)
    assert box(image) == (0, 200, 0, 256)
    half = np.full((200, 256, 3), 250, np.uint8)
    half[120:, 60:200] = (40, 90, 40)  # touches one side
    assert box(half) == (0, 200, 0, 256)
