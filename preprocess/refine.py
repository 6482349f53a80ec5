"""Refinement of any estimator's map against the image: `--refine guided` or `--refine grabcut`."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from preprocess.vision.pixels import working_image
from preprocess.vision.regions import unit

MAX_SIDE = 256  # px, of the map and image that are refined
RADIUS = 0.03  # of the longer side: the guided filter's window
EPSILON = 1e-2  # its regularisation, for colours in 0..1
GRABCUT_SIDE = 200  # px: twice the size takes five times as long and finds the same
GRABCUT_ROUNDS = 1
LEAST = 0.005  # of the image: a smaller foreground is a failed cut


def refined(
    function: Callable[..., np.ndarray], image: np.ndarray, refine: str, **parameters
) -> np.ndarray:
    """`function`'s map of an (H, W, 3) uint8 RGB image, refined: float32 (h, w) in [0, 1], no side
    over MAX_SIDE px.

    Args:
        refine: "guided" (edges follow the image's, the map stays soft) or "grabcut" (nearly
            binary).
    """
    saliency = function(image, **parameters)
    return {"guided": guided, "grabcut": grabcut}[refine](image, saliency)


def guided(image: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Guided filter (He, Sun, Tang, ECCV 2010, the colour version of section 3.4): soft, in the
    given map's range."""
    small = working_image(image, MAX_SIDE)
    height, width = small.shape[:2]
    saliency = cv2.resize(saliency, (width, height), interpolation=cv2.INTER_LINEAR)
    radius = max(1, round(RADIUS * max(height, width)))
    guide = np.ascontiguousarray(small, np.float32) / np.float32(255)
    smooth = cv2.ximgproc.guidedFilter(guide, saliency, radius, EPSILON)
    low, high = float(saliency.min()), float(saliency.max())
    return np.clip(np.nan_to_num(smooth, nan=low), low, high)


def grabcut(image: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """GrabCut (Rother, Kolmogorov, Blake, SIGGRAPH 2004), OpenCV's, from a soft prior.

    Pixels start on the side of the prior's Otsu threshold that they are on, the surest are fixed.
    Where that leaves nothing to cut, or the cut comes back (nearly) empty, the prior itself is the
    answer.
    """
    small = working_image(image, GRABCUT_SIDE)
    height, width = small.shape[:2]
    prior = cv2.resize(saliency, (width, height), interpolation=cv2.INTER_LINEAR)
    levels = np.rint(255 * unit(prior)).astype(np.uint8)
    threshold = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0] / 255
    sure = unit(1 / (1 + np.exp(10 * (np.float32(threshold) - levels / np.float32(255)))))
    mask = np.where(sure >= 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    mask[sure < 0.05] = cv2.GC_BGD
    mask[sure > 0.97] = cv2.GC_FGD
    inside = int(np.count_nonzero(mask & 1))
    if (
        min(height, width) < 3 or inside < 10 or mask.size - inside < 10
    ):  # too few for five colours a side
        return prior
    cv2.setRNGSeed(0)  # its k-means draws: the same image must give the same map
    cv2.grabCut(
        np.ascontiguousarray(small[..., ::-1]),
        mask,
        None,
        np.zeros((1, 65)),
        np.zeros((1, 65)),
        GRABCUT_ROUNDS,
        cv2.GC_INIT_WITH_MASK,
    )
    cut = (mask & 1).astype(np.float32)
    return cut if cut.mean() > LEAST else prior
