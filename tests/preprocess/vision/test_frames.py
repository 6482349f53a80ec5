"""Artificial frames: found where drawn, not where there is none."""

import cv2
import numpy as np
import pytest

from preprocess.estimators import load
from preprocess.vision.frames import inner_box
from preprocess.vision.pixels import working_image


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


@pytest.mark.parametrize("name", ["rbd", "mbd", "fusion"])
def test_the_object_of_a_picture_with_wide_margins_is_within_the_picture(name):
    image, disc = catalogue(top=50, left=65, colour=200)
    saliency = load(name)(image) > 0.5
    assert (saliency & disc).sum() / (saliency | disc).sum() > 0.6


@pytest.mark.parametrize("seed", range(24))
def test_margins_of_any_width_on_two_to_four_sides(seed):
    """At random: sides, widths of 3 to 80 % of the photograph's, colours, JPEG's noise."""
    rng = np.random.default_rng(seed)
    sides = rng.permutation(["top", "bottom", "left", "right"])[: rng.integers(2, 5)].tolist()
    widths = {side: int(150 * rng.uniform(0.03, 0.8)) for side in sides}
    image, _ = catalogue(**widths, colour=int(rng.choice([0, 255, 200, 60, 240])))
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
    image = working_image(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), 256)
    scale = image.shape[0] / (150 + widths.get("top", 0) + widths.get("bottom", 0))
    top, left = widths.get("top", 0) * scale, widths.get("left", 0) * scale
    expected = top, top + 150 * scale, left, left + 200 * scale
    wide = max(widths.values()) * scale > 0.075 * 256
    if wide:  # else a thin frame, of which sides without one take the widest's width
        assert box(image) == pytest.approx(expected, abs=4)


def test_an_object_on_a_plain_ground_is_no_picture_with_margins():
    y, x = np.mgrid[:200, :256]
    image = np.full((200, 256, 3), 250, np.uint8)
    image[np.hypot(y - 100, x - 128) < 60] = (200, 40, 40)
    assert box(image) == (0, 200, 0, 256)
    half = np.full((200, 256, 3), 250, np.uint8)
    half[120:, 60:200] = (40, 90, 40)  # touches one side
    assert box(half) == (0, 200, 0, 256)
