"""What every estimator promises: shape, type, range, determinism, on ordinary and on odd images."""

import cv2
import numpy as np
import pytest

from data.resize import resize
from preprocess import estimators, refine
from preprocess.estimators import ESTIMATORS, load

NAMES = sorted(ESTIMATORS)
ODD = [(1, 1), (1, 2), (3, 3), (12, 12), (3000, 2), (2, 3000), (8, 500)]


def picture(height=120, width=160, seed=0):
    """A dark disc on a bright gradient, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.stack(
        [180 + 40 * x / width, 170 + 50 * y / height, np.full((height, width), 160.0)], 2
    )
    image[(y - 0.45 * height) ** 2 + (x - 0.4 * width) ** 2 < (0.22 * height) ** 2] = (60, 40, 120)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def check(estimator, image):
    found = estimator(image)
    assert found.shape == image.shape[:2] and found.dtype == np.float32
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1
    assert np.array_equal(found, estimator(image))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_an_ordinary_image(name):
    image = picture()
    found = check(load(name), image)
    if name not in ("centre", "spectral", "fine_grained"):
        assert found[40:65, 52:76].mean() > 3 * found[:15].mean()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", ODD)
def test_odd_shapes(name, shape):
    rng = np.random.default_rng(0)
    check(load(name), rng.integers(0, 256, (*shape, 3), np.uint8))


@pytest.mark.parametrize("name", NAMES)
def test_flat_and_grey_images(name):
    for value in (0, 77, 255):
        check(load(name), np.full((60, 80, 3), value, np.uint8))
    check(load(name), np.repeat(picture()[..., :1], 3, 2))


@pytest.mark.parametrize("name", ["rbd", "gs", "mr", "mc", "mbd", "sf", "ft", "fusion"])
def test_flipping_the_image_flips_the_map(name):
    image, estimator = picture(), load(name)
    found = estimator(image)
    for axis in (0, 1):
        flipped = np.flip(estimator(np.ascontiguousarray(np.flip(image, axis))), axis)
        assert np.abs(found - flipped).mean() < 0.06


@pytest.mark.parametrize("kind", ["guided", "grabcut"])
@pytest.mark.parametrize("shape", [*ODD, (120, 160)])
def test_refinement(kind, shape):
    rng = np.random.default_rng(0)
    check(load("centre", refine=kind), rng.integers(0, 256, (*shape, 3), np.uint8))


def test_grabcut_refinement_finds_the_object():
    y, x = np.mgrid[:120, :160]
    disc = (y - 54) ** 2 + (x - 64) ** 2 < 26.4**2
    soft = cv2.GaussianBlur(disc.astype(np.float32), (0, 0), 6)
    better = resize(refine.grabcut(picture(), soft), 160, 120)
    assert np.abs(better - disc).mean() < 0.2 * np.abs(soft - disc).mean()


def test_guided_refinement_sharpens_at_the_images_edge_and_nowhere_else():
    y, x = np.mgrid[:120, :160]
    radius = np.hypot(y - 54, x - 64)
    soft = cv2.GaussianBlur((radius < 26.4).astype(np.float32), (0, 0), 4)
    better = resize(refine.guided(picture(), soft), 160, 120)
    inner, outer = (radius < 26) & (radius > 24), (radius > 27) & (radius < 29)
    assert better[inner].mean() - better[outer].mean() > 1.5 * (
        soft[inner].mean() - soft[outer].mean()
    )
    assert better[radius < 10].min() > 0.9 and better[radius > 45].max() < 0.1


def test_grabcut_falls_back_where_there_is_nothing_to_cut():
    image = np.full((60, 80, 3), 90, np.uint8)
    prior = np.full((60, 80), 0.3, np.float32)
    assert np.array_equal(refine.grabcut(image, prior), prior)


def test_a_refinement_is_a_parameter_only_where_it_is_chosen():
    assert "refine" not in load("rbd").parameters
    assert load("rbd", refine="guided").parameters["refine"] == "guided"


def test_parameters_and_names_are_checked():
    assert load("auto").name == estimators.AUTO
    with pytest.raises(ValueError, match="there are: auto, "):
        load("rdb")
    with pytest.raises(ValueError, match="no parameter sigma"):
        load("rbd", sigma=3)
    with pytest.raises(ValueError, match="no refinement"):
        load("rbd", refine="crf")
    with pytest.raises(ValueError, match="as its prior"):
        load("grabcut", prior="grabcut")(picture())
