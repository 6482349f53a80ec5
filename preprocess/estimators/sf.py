"""SF: saliency filters (Perazzi, Krähenbühl, Pritch, Hornung, CVPR 2012), on superpixels."""

from dataclasses import dataclass

import numpy as np

from preprocess.estimators.regional import Regional
from preprocess.vision.pixels import min_max
from preprocess.vision.regions import Regions, gaussian

SIGMA_SPACE = 0.25  # of the uniqueness; positions are in 0..1
SIGMA_COLOUR = 20.0  # of the distribution, Lab units
CONTRAST = 5.0  # k of equation 7. NOTE: the paper has 6, which is worse here on all but MAE


@dataclass(frozen=True)
class SF(Regional):
    """Rare and compact colours (equations 1, 3 and 7), without the paper's upsampling."""

    name = "sf"

    @staticmethod
    def solve(parts: Regions) -> np.ndarray:
        # NOTE: the paper squares the colour distance and normalises the weights; worse here
        uniqueness = (parts.colour * gaussian(parts.space, SIGMA_SPACE)).sum(1)
        weight = gaussian(parts.colour, SIGMA_COLOUR)
        weight = weight / weight.sum(1, keepdims=True)  # the diagonal is never 0
        mean = weight @ parts.position
        distribution = weight @ (parts.position**2).sum(1) - (mean**2).sum(1)
        return min_max(min_max(uniqueness) * np.exp(-CONTRAST * min_max(distribution)))
