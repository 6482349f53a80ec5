"""Fusion, our own: RBD, MR, MC and MB+ agree on a prior, and minimum cuts from it are averaged.

1. RBD, MR and MC run on one region graph whose Lab distances also carry texture; MB+ on the same
   picture.
2. Each prior is stretched by a sigmoid around its Otsu threshold and cut on 400 fine superpixels
   (preprocess.vision.cuts).
3. The cuts are averaged, each the lighter the more it runs along the image border and the less the
   others agree.

Chosen on the even numbers of ECSSD; no ground truth enters the method.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from preprocess.estimators import mbd
from preprocess.estimators.mc import MC
from preprocess.estimators.mr import MR
from preprocess.estimators.rbd import RBD
from preprocess.estimators.regional import Regional
from preprocess.vision import cuts
from preprocess.vision.pixels import min_max, otsu, sigmoid, working_image
from preprocess.vision.regions import Regions

BARRIER_SIDE = 160  # px, of the image that MB+ sees
TEXTURE = 10.0  # Lab units a unit of mean absolute fine detail
CAUTIOUS, BOLD = 8.0, 20.0  # slopes of the priors' sigmoids
DOUBT = 10.0  # how fast a cut's weight falls with its border contact and its disagreement
STRETCH = 14.0  # slope of the final sigmoid


@dataclass(frozen=True)
class Fusion(Regional):
    """Averaged minimum cuts from the priors of four methods.

    Args:
        cells: fine superpixels of the cuts.
    """

    name = "fusion"
    cells: int = 400

    def working(self, image: np.ndarray) -> np.ndarray:
        parts = self.regions(image)
        fine = cuts.cells(parts.image, parts.planes, self.cells)
        candidates = [cuts.grab(fine, fine.mean(prior[parts.labels])) for prior in priors(parts)]
        fused = combine(np.stack(candidates), fine)
        return parts.unframed(fused.astype(np.float32)[fine.labels])


def priors(parts: Regions) -> list[np.ndarray]:
    """The (n,) soft priors to cut from: the mean of four methods, cautious and bold, and MC's."""
    textured = replace(parts, lab=np.concatenate([parts.lab, TEXTURE * texture(parts)[:, None]], 1))
    barrier = mbd.solve(working_image(parts.image, BARRIER_SIDE))
    size = parts.labels.shape[::-1]
    barrier = parts.mean(cv2.resize(barrier, size, interpolation=cv2.INTER_LINEAR))
    chain = min_max(MC.solve(textured))
    rest = min_max(RBD.solve(textured)) + min_max(MR.solve(textured)) + chain
    mean = min_max(rest + min_max(barrier))
    return [
        stretched(mean, parts.size, CAUTIOUS),
        stretched(mean, parts.size, BOLD),
        stretched(chain, parts.size, CAUTIOUS),
    ]


def texture(parts: Regions) -> np.ndarray:
    """(n,) float64 mean absolute detail of lightness, in Lab units.

    Detail is what is finer than a Gaussian of one pixel, smoothed over three.
    """
    lightness = parts.planes[0]
    detail = np.abs(lightness - cv2.GaussianBlur(lightness, (5, 5), 1))
    return parts.mean(cv2.GaussianBlur(detail, (13, 13), 3))


def stretched(values: np.ndarray, size: np.ndarray, slope: float) -> np.ndarray:
    """Values in [0, 1] through a sigmoid around the Otsu threshold of their (n,) sizes."""
    return min_max(sigmoid(slope * (values - otsu(values, size) / 255)))


def combine(candidates: np.ndarray, fine: cuts.Cells) -> np.ndarray:
    """(k, n) cuts to one (n,) map in [0, 1]: their mean by confidence, its middle stretched."""
    along_border = candidates @ (fine.edge / fine.edge.sum())
    apart = np.abs(candidates - candidates.mean(0)) @ (fine.size / fine.size.sum())
    doubt = along_border + apart
    weight = np.exp(-DOUBT * (doubt - doubt.min()))
    return min_max(sigmoid(STRETCH * (weight @ candidates / weight.sum() - 0.5)))
