"""FT: frequency-tuned salient region detection (Achanta, Hemami, Estrada, Süsstrunk, CVPR 2009)."""

from dataclasses import dataclass

import cv2
import numpy as np

from preprocess.estimators.base import Estimator
from preprocess.vision.pixels import min_max, working_image


@dataclass(frozen=True)
class FT(Estimator):
    """The squared Lab distance of the slightly blurred image to its mean colour (equation 5).

    Args:
        max_side: of the working image, px.
    """

    name = "ft"
    max_side: int = 128

    def working(self, image: np.ndarray) -> np.ndarray:
        lab = cv2.cvtColor(working_image(image, self.max_side), cv2.COLOR_RGB2LAB)
        # OpenCV's 5 x 5 kernel for a small sigma is the paper's [1 4 6 4 1] / 16
        planes = cv2.split(cv2.GaussianBlur(lab, (5, 5), 0))
        difference = np.float32(planes) - np.float32(cv2.mean(lab)[:3])[:, None, None]
        difference[0] *= np.float32(100 / 255)  # 8-bit Lab has L in 0..255
        return min_max((difference * difference).sum(0))
