"""Artificial frames: found where drawn, not where there is none."""

import cv2
import numpy as np
import pytest

from preprocess.estimators import load
from preprocess.vision.frames import inner_box
from preprocess.vision.pixels import working_image

Y, X = np.mgrid[:200, :256, :1][:2]


def catalogue(top=0, bottom=0, left=0, right=0, colour=255):
    """A dark disc on a grey photograph with such margins, and where the disc is."""
    y, x = np.mgrid[:150, :200]
    photograph = np.random.default_rng(0).normal(130 + x / 8, 6, (150, 200))
    disc = np.hypot(y - 70, x - 90) < 30
    photograph[disc] -= 100
    margins = (top, bottom), (left, right)
    grey = np.pad(np.clip(photograph, 0, 255), margins, constant_values=colour)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, 2), np.pad(disc, margins)


def box(image):
    rows, columns = inner_box(image)
    return rows.start, rows.stop, columns.start, columns.stop


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (catalogue(10, 10, 10, 10)[0], (10, 160, 10, 210)),
        # sides without a frame take the widest
        (catalogue(12, 8, colour=0)[0], (12, 162, 12, 188)),
        (catalogue()[0], (0, 150, 0, 200)),
        (catalogue(bottom=350)[0], (0, 500, 0, 200)),  # an edge deep inside
        # objects of one colour on a plain ground, the second at one side
        (np.where(np.hypot(Y - 100, X - 128) < 60, 40, np.uint8([250] * 3)), (0, 200, 0, 256)),
        (np.where((Y > 120) & (abs(X - 130) < 70), 90, np.uint8([250] * 3)), (0, 200, 0, 256)),
    ],
)
def test_a_drawn_frame_is_cut_and_nothing_else(image, expected):
    assert box(image) == pytest.approx(expected, abs=1 if 0 < expected[0] else 0)


@pytest.mark.parametrize("name", ["rbd", "mbd", "fusion"])
def test_the_object_of_a_picture_with_wide_margins_is_within_the_picture(name):
    image, disc = catalogue(top=50, left=65, colour=200)
    saliency = load(name)(image) > 0.5
    assert (saliency & disc).sum() / (saliency | disc).sum() > 0.6


@pytest.mark.parametrize("seed", range(24))
def test_margins_of_any_width_on_two_to_four_sides(seed):
    rng = np.random.default_rng(seed)
    sides = rng.permutation(["top", "bottom", "left", "right"])[: rng.integers(2, 5)].tolist()
    widths = dict.fromkeys(("top", "bottom", "left"), 0)
    widths |= {side: int(150 * rng.uniform(0.03, 0.8)) for side in sides}
    image, _ = catalogue(**widths, colour=int(rng.choice([0, 255, 200, 60, 240])))
    jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
    image = working_image(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), 256)
    scale = image.shape[0] / (150 + widths["top"] + widths["bottom"])
    top, left = widths["top"] * scale, widths["left"] * scale
    if max(widths.values()) * scale > 0.075 * 256:  # else a thin frame, see above
        expected = top, top + 150 * scale, left, left + 200 * scale
        assert box(image) == pytest.approx(expected, abs=4)
