"""Area averaging against OpenCV's, and crops that are flipped on the way."""

import cv2
import numpy as np
import pytest

from train.copy_paste import Box, paste
from train.resample import area
from train.views import resize_crop


@pytest.fixture(scope="module")
def picture():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (300, 400, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("w", "h", "size"),
    [
        (64, 64, 64),
        (65, 90, 64),
        (128, 128, 64),
        (200, 64, 64),
        (96, 300, 32),
        (399, 299, 20),
        (400, 300, 1),
        (401 - 96, 211, 100),
    ],
)
def test_area_is_opencvs(picture, w, h, size):
    left, top = 400 - w, (300 - h) // 2
    out = np.empty((size, size, 3), np.uint8)
    area(picture, left, top, w, h, False, out)
    expected = cv2.resize(
        picture[top : top + h, left : left + w], (size, size), interpolation=cv2.INTER_AREA
    )
    difference = np.abs(out.astype(int) - expected)
    assert (
        difference.max() <= 1 and (difference > 0).mean() < 0.01
    )  # OpenCV rounds a half to the even neighbour
    mirrored = np.empty_like(out)
    area(picture, left, top, w, h, True, mirrored)
    assert np.array_equal(mirrored, out[:, ::-1])


def test_area_never_leaves_the_image(picture):
    out = np.empty((32, 32, 3), np.uint8)
    for part in ((-1, 0, 40, 40), (0, 270, 40, 40), (370, 0, 40, 40), (0, 0, 31, 40)):
        with pytest.raises(ValueError, match="cannot be reduced"):
            area(picture, *part, False, out)


@pytest.mark.parametrize(("w", "h"), [(40, 40), (20, 20), (60, 25), (25, 60)])
def test_a_crop_is_opencvs_whatever_grows_or_shrinks(picture, w, h):
    box = Box(7, 11, w, h, 400, 300)
    cut = picture[11 : 11 + h, 7 : 7 + w]
    expected = cv2.resize(
        cut, (32, 32), interpolation=cv2.INTER_AREA if w * h > 1024 else cv2.INTER_LINEAR
    )
    into = np.zeros((2, 32, 32, 3), np.uint8)
    for flip in (False, True):
        wanted = expected[:, ::-1] if flip else expected
        assert np.abs(resize_crop(picture, box, 32, flip, into[1]).astype(int) - wanted).max() <= 1
        assert np.array_equal(into[1], resize_crop(picture, box, 32, flip)) and not into[0].any()
    odd = picture[:, ::-1]  # not contiguous
    assert (
        np.abs(
            resize_crop(odd, box, 32).astype(int) - resize_crop(np.ascontiguousarray(odd), box, 32)
        ).max()
        <= 1
    )


def test_blending_is_exact_for_every_alpha_and_level():
    alpha = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 256, 1)
    levels = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 256, 0)
    image = np.concatenate([levels, 255 - levels, levels // 2], 2)
    for background in (0, 77, 254):
        exact = (
            alpha[..., None].astype(int) * image + (255 - alpha[..., None].astype(int)) * background
        ) / 255
        assert np.array_equal(
            paste(image, alpha, np.full_like(image, background)), np.floor(exact + 0.5)
        )
