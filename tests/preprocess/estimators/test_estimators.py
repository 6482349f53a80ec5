"""What every estimator promises: shape, type, range, determinism, on ordinary and on odd images."""

import cv2
import numpy as np
import pytest

from data.resize import resize
from preprocess import refine
from preprocess.estimators import ESTIMATORS, load

ODD = [(1, 1), (1, 2), (3, 3), (12, 12), (3000, 2), (2, 3000), (8, 500)]
WEAK = ("centre", "spectral", "fine_grained")  # these do not find the disc


def picture(seed=0):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:120, :160]
    image = np.stack([180 + 40 * x / 160, 170 + 50 * y / 120, np.full((120, 160), 160.0)], 2)
    image[np.hypot(y - 54, x - 64) < 26.4] = (60, 40, 120)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", [*sorted(ESTIMATORS), "guided", "grabcut of"])
def test_odd_and_ordinary_images(name):
    kind = {"guided": "guided", "grabcut of": "grabcut"}.get(name, "none")
    estimator = load(name if kind == "none" else "centre", refine=kind)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in (*ODD, (120, 160))]
    images += [np.full((60, 80, 3), value, np.uint8) for value in (0, 77, 255)]
    images += [np.repeat(picture()[..., :1], 3, 2), picture()]
    for image in images:
        saliency = estimator(image)
        assert saliency.shape == image.shape[:2] and saliency.dtype == np.float32
        assert np.isfinite(saliency).all() and saliency.min() >= 0 and saliency.max() <= 1
        assert np.array_equal(saliency, estimator(image))
    if name in WEAK or kind != "none":
        return
    assert saliency[40:65, 52:76].mean() > 3 * saliency[:15].mean()
    for axis in (0, 1) if name != "grabcut" else ():
        flipped = np.flip(estimator(np.ascontiguousarray(np.flip(picture(), axis))), axis)
        assert np.abs(saliency - flipped).mean() < 0.06


def test_parameters_that_caches_store():
    regional = {"superpixels": 200, "max_side": 256, "compactness": 20.0, "frame": True}
    refined = {**regional, "iterations": 6, "refine": "guided"}
    assert load("rbd", refine="guided").parameters == refined
    assert load("fusion").parameters == {**regional, "iterations": 10, "cells": 400}


def test_refinements_bring_a_blurred_map_to_the_images_edges():
    y, x = np.mgrid[:120, :160]
    radius = np.hypot(y - 54, x - 64)
    disc = (radius < 26.4).astype(np.float32)
    soft = cv2.GaussianBlur(disc, (0, 0), 4)
    maps = [refine.REFINE[name](picture(), soft) for name in ("grabcut", "guided")]
    cut, guided = (resize(refined, 160, 120) for refined in maps)
    assert np.abs(cut - disc).mean() < 0.3 * np.abs(soft - disc).mean()
    inner, outer = (radius < 26) & (radius > 24), (radius > 27) & (radius < 29)
    contrast = soft[inner].mean() - soft[outer].mean()
    assert guided[inner].mean() - guided[outer].mean() > 1.5 * contrast
    assert guided[radius < 10].min() > 0.9 and guided[radius > 45].max() < 0.1
