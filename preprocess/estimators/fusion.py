"""Fusion, our own: RBD, MR, MC and MB+ agree on a prior, and minimum cuts from it are weighted by
their confidence.

1. RBD, MR and MC run on one region graph whose Lab distances also carry texture; MB+ on the same
picture.
2. Each prior is stretched by a sigmoid around its Otsu threshold and cut on 400 fine superpixels
(preprocess.vision.cuts).
3. The cuts are averaged, each the lighter the more it runs along the image border and the less the
others agree. Chosen on the even numbers of ECSSD; no ground truth enters the method.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from preprocess.estimators import mbd, mc, mr, rbd
from preprocess.vision import cuts
from preprocess.vision import regions as graph
from preprocess.vision.pixels import working_image
from preprocess.vision.regions import Regions, unit

VERSION = 1
PARAMETERS = {**graph.PARAMETERS, "cells": 400}
BARRIER_SIDE = 160  # px, of the image that MB+ sees
TEXTURE = 10.0  # Lab units a unit of mean absolute fine detail
DOUBT = 10.0  # how fast a cut's weight falls with its border contact and its disagreement
STRETCH = 14.0  # slope of the final sigmoid


def saliency(image: np.ndarray, cells: int = 400, **parameters) -> np.ndarray:
    """Fused saliency of an (H, W, 3) uint8 RGB image: float32 (h, w) in [0, 1] at the working size.

    Args:
        cells: fine superpixels of the cuts; the rest as preprocess.vision.regions.regions.
    """
    parts = graph.regions(image, **parameters)
    fine = cuts.cells(parts.image, parts.planes, cells)
    candidates = np.stack(
        [cuts.grab(fine, fine.mean(prior[parts.labels])) for prior in priors(parts)]
    )
    fused = combine(candidates, fine)
    return parts.unframed(fused.astype(np.float32)[fine.labels])


def priors(parts: Regions) -> list[np.ndarray]:
    """The (n,) soft priors to cut from: the mean of four methods, cautious and bold, and MC
    alone."""
    textured = replace(parts, lab=np.concatenate([parts.lab, TEXTURE * texture(parts)[:, None]], 1))
    barrier = mbd.solve(working_image(parts.image, BARRIER_SIDE))
    barrier = parts.mean(
        cv2.resize(barrier, parts.labels.shape[::-1], interpolation=cv2.INTER_LINEAR)
    )
    chain = unit(mc.solve(textured))
    mean = unit(unit(rbd.solve(textured)) + unit(mr.solve(textured)) + chain + unit(barrier))
    return [
        stretched(mean, parts.size, 8.0),
        stretched(mean, parts.size, 20.0),
        stretched(chain, parts.size, 8.0),
    ]


def texture(parts: Regions) -> np.ndarray:
    """(n,) float64 mean absolute detail of lightness finer than a pixel's sigma, smoothed over 3
    px, in Lab units."""
    lightness = parts.planes[0]
    detail = np.abs(lightness - cv2.GaussianBlur(lightness, (5, 5), 1))
    return parts.mean(cv2.GaussianBlur(detail, (13, 13), 3))


def stretched(values: np.ndarray, size: np.ndarray, slope: float) -> np.ndarray:
    """Values in [0, 1] through a sigmoid around the Otsu threshold of their (n,) sizes, min-max
    normalised."""
    counts = np.bincount(np.rint(values * 255).astype(np.int64), size, 256)
    return unit(1 / (1 + np.exp(slope * (rbd.otsu(counts) / 255 - values))))


def combine(candidates: np.ndarray, fine: cuts.Cells) -> np.ndarray:
    """(k, n) cuts to one (n,) map in [0, 1]: the mean weighted by confidence, its middle
    stretched."""
    share = fine.size / fine.size.sum()
    doubt = (
        candidates @ (fine.edge / fine.edge.sum()) + np.abs(candidates - candidates.mean(0)) @ share
    )
    weight = np.exp(-DOUBT * (doubt - doubt.min()))
    mean = weight @ candidates / weight.sum()
    return unit(1 / (1 + np.exp(STRETCH * (0.5 - mean))))
