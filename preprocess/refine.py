"""Refinement of any estimator's map against the image: `--refine guided` or `--refine grabcut`."""

from dataclasses import dataclass

import cv2
import numpy as np

from preprocess.estimators.base import Estimator
from preprocess.vision.pixels import min_max, sigmoid, working_image

MAX_SIDE = 256  # px, of the map and image that are refined
RADIUS = 0.03  # of the longer side: the guided filter's window
EPSILON = 1e-2  # its regularisation, for colours in 0..1
GRABCUT_SIDE = 200  # px: twice the size takes five times as long for the same result
GRABCUT_ROUNDS = 1
CERTAIN = 0.05, 0.97  # stretched priors below and above which a pixel is certain
FEWEST = 10  # pixels on a side of the cut: its colour model has five components
LEAST = 0.005  # of the image: a smaller foreground is a failed cut


@dataclass(frozen=True)
class Refined(Estimator):
    """Another estimator's maps, refined.

    Args:
        estimator: whose maps.
        refine: a key of REFINE.
    """

    estimator: Estimator
    refine: str

    @property
    def version(self) -> int:
        return self.estimator.version

    @property
    def weights(self) -> str | None:
        return self.estimator.weights

    @property
    def single(self) -> bool:
        return self.estimator.single

    @property
    def parameters(self) -> dict:
        return {**self.estimator.parameters, "refine": self.refine}

    def working(self, image: np.ndarray) -> np.ndarray:
        return REFINE[self.refine](image, self.estimator.working(image))


def thumbnail(image: np.ndarray) -> np.ndarray:
    """All that a refinement needs of an (H, W, 3) uint8 RGB image: no side over MAX_SIDE px."""
    return working_image(image, MAX_SIDE)


def guided(image: np.ndarray, saliency: np.ndarray) -> np.ndarray:
    """Guided filter (He, Sun, Tang, ECCV 2010, the colour version of section 3.4).

    Args:
        image: (H, W, 3) uint8 RGB.
        saliency: float32 (h, w), of any size.

    Returns:
        float32 of the thumbnail's size, soft, in the given map's range.
    """
    small = thumbnail(image)
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

    Args:
        image: (H, W, 3) uint8 RGB.
        saliency: float32 (h, w), of any size.

    Returns:
        float32, no side over GRABCUT_SIDE px, 0 or 1; the prior itself where there is nothing to
        cut, or the cut comes back (nearly) empty.
    """
    small = working_image(image, GRABCUT_SIDE)
    height, width = small.shape[:2]
    prior = cv2.resize(saliency, (width, height), interpolation=cv2.INTER_LINEAR)
    levels = np.rint(255 * min_max(prior)).astype(np.uint8)
    threshold = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0]
    stretched = min_max(sigmoid(10 * (levels - np.float32(threshold)) / np.float32(255)))
    mask = np.where(stretched >= 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    mask[stretched < CERTAIN[0]] = cv2.GC_BGD
    mask[stretched > CERTAIN[1]] = cv2.GC_FGD
    inside = int(np.count_nonzero(mask & 1))
    if min(height, width) < 3 or min(inside, mask.size - inside) < FEWEST:
        return prior
    bgr = np.ascontiguousarray(small[..., ::-1])
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # its k-means draws: the same image must give the same map
    cv2.grabCut(bgr, mask, None, *models, GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    cut = (mask & 1).astype(np.float32)
    return cut if cut.mean() > LEAST else prior


REFINE = {"guided": guided, "grabcut": grabcut}
