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
        squares = np.zeros(lab.shape[:2], np.float32)
        for plane, mean, scale in zip(planes, cv2.mean(lab), (100 / 255, 1, 1), strict=False):
            difference = plane.astype(np.float32)
            difference -= np.float32(mean)
            difference *= np.float32(scale)  # 8-bit Lab has L in 0..255
            squares += difference * difference
        return min_max(squares)
