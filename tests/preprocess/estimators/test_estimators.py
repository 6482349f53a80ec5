"""What every estimator promises: shape, type, range, determinism, on ordinary and on odd images."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from data.cache.reader import Cache
from data.resize import resize
from preprocess import estimators, refine
from preprocess.estimators import ESTIMATORS, create, load
from tests.preprocess.runs import inline

NAMES = sorted(ESTIMATORS)
ODD = [(1, 1), (1, 2), (3, 3), (12, 12), (3000, 2), (2, 3000), (8, 500)]


def picture(height=120, width=160, seed=0):
    """A dark disc on a bright gradient, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    planes = 180 + 40 * x / width, 170 + 50 * y / height, np.full((height, width), 160.0)
    image = np.stack(planes, 2)
    image[(y - 0.45 * height) ** 2 + (x - 0.4 * width) ** 2 < (0.22 * height) ** 2] = (60, 40, 120)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def check(estimator, image):
    saliency = estimator(image)
    assert saliency.shape == image.shape[:2] and saliency.dtype == np.float32
    assert np.isfinite(saliency).all() and saliency.min() >= 0 and saliency.max() <= 1
    assert np.array_equal(saliency, estimator(image))
    return saliency


@pytest.mark.parametrize("name", NAMES)
def test_an_ordinary_image(name):
    saliency = check(load(name), picture())
    if name not in ("centre", "spectral", "fine_grained"):
        assert saliency[40:65, 52:76].mean() > 3 * saliency[:15].mean()


@pytest.mark.parametrize("name", NAMES)
def test_odd_images(name):
    rng = np.random.default_rng(0)
    for shape in ODD:
        check(load(name), rng.integers(0, 256, (*shape, 3), np.uint8))
    for value in (0, 77, 255):
        check(load(name), np.full((60, 80, 3), value, np.uint8))
    check(load(name), np.repeat(picture()[..., :1], 3, 2))


@pytest.mark.parametrize("name", ["rbd", "gs", "mr", "mc", "mbd", "sf", "ft", "fusion"])
def test_flipping_the_image_flips_the_map(name):
    image, estimator = picture(), load(name)
    saliency = estimator(image)
    for axis in (0, 1):
        flipped = np.flip(estimator(np.ascontiguousarray(np.flip(image, axis))), axis)
        assert np.abs(saliency - flipped).mean() < 0.06


def test_the_class_with_its_defaults_gives_the_map_of_the_command(tmp_path):
    (tmp_path / "images").mkdir()
    image = picture(seed=3)
    cv2.imwrite(str(tmp_path / "images" / "a.png"), image[..., ::-1])
    for name in NAMES:
        options = ("--estimator", name, "--side", "40")
        assert inline(tmp_path / "images", tmp_path / name, *options).returncode == 0
        method = create(name)
        assert method == type(method)() == load(name)
        mask = np.rint(resize(method.working(image), 40, 40) * 255).astype(np.uint8)
        assert np.array_equal(Cache(tmp_path / name).mask(0), mask), name
        stored = json.loads((tmp_path / name / "cache.json").read_text())["identity"]
        assert stored["parameters"] == method.parameters and stored["version"] == method.version


def test_parameters_that_caches_store():
    regional = {"superpixels": 200, "max_side": 256, "compactness": 20.0, "iterations": 10}
    assert load("mr").parameters == {**regional, "frame": True}
    assert load("rbd").parameters == {**regional, "iterations": 6, "frame": True}
    assert load("fusion").parameters == {**regional, "frame": True, "cells": 400}
    assert load("rbd", refine="guided").parameters["refine"] == "guided"
    assert load("spectral").parameters == {} and load("spectral").version == 2


@pytest.mark.parametrize("kind", ["guided", "grabcut"])
def test_refinement_of_odd_images(kind):
    rng = np.random.default_rng(0)
    for shape in (*ODD, (120, 160)):
        check(load("centre", refine=kind), rng.integers(0, 256, (*shape, 3), np.uint8))


def test_refinements_bring_a_blurred_map_to_the_images_edges():
    y, x = np.mgrid[:120, :160]
    radius = np.hypot(y - 54, x - 64)
    disc = (radius < 26.4).astype(np.float32)
    soft = cv2.GaussianBlur(disc, (0, 0), 6)
    cut = resize(refine.grabcut(picture(), soft), 160, 120)
    assert np.abs(cut - disc).mean() < 0.2 * np.abs(soft - disc).mean()
    flat, prior = np.full((60, 80, 3), 90, np.uint8), np.full((60, 80), 0.3, np.float32)
    assert np.array_equal(refine.grabcut(flat, prior), prior)
    soft = cv2.GaussianBlur(disc, (0, 0), 4)
    better = resize(refine.guided(picture(), soft), 160, 120)
    inner, outer = (radius < 26) & (radius > 24), (radius > 27) & (radius < 29)
    contrast = soft[inner].mean() - soft[outer].mean()
    assert better[inner].mean() - better[outer].mean() > 1.5 * contrast
    assert better[radius < 10].min() > 0.9 and better[radius > 45].max() < 0.1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rdb", {}, "there are: auto, "),
        ("rbd", {"sigma": 3}, "unexpected keyword argument 'sigma'"),
        ("rbd", {"refine": "crf"}, "no refinement"),
        ("grabcut", {"prior": "grabcut"}, "as its prior"),
        ("rbd", {"weights": "x.pth"}, "rbd is no network"),
    ],
)
def test_parameters_and_names_are_checked(name, options, message):
    assert load("auto").name == estimators.AUTO
    with pytest.raises((ValueError, TypeError), match=message):
        load(name, **options)


def test_torch_is_not_imported_without_a_network():
    """Nor by a worker that prepares images for one."""
    code = (
        "import sys, numpy as np, preprocess.__main__, preprocess.networks.batches\n"
        "from preprocess.estimators import ESTIMATORS, NETWORKS, create, load\n"
        "[load(name) for name in ESTIMATORS]\n"
        "[create(name, side=64).prepare(np.zeros((9, 9, 3), np.uint8)) for name in NETWORKS]\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
