"""Fine-grained saliency (Montabone and Soto, Image and Vision Computing 2010), OpenCV's."""

from dataclasses import dataclass

import cv2
import numpy as np

from preprocess.estimators.base import Estimator
from preprocess.vision.pixels import min_max, working_image


@dataclass(frozen=True)
class FineGrained(Estimator):
    """Contrast of centre and surround at several scales.

    Args:
        max_side: of the working image, px.
    """

    name = "fine_grained"
    max_side: int = 256

    def working(self, image: np.ndarray) -> np.ndarray:
        small = cv2.cvtColor(working_image(image, self.max_side), cv2.COLOR_RGB2BGR)
        computed, saliency = cv2.saliency.StaticSaliencyFineGrained_create().computeSaliency(small)
        if not computed:
            return np.zeros(small.shape[:2], np.float32)
        return min_max(np.nan_to_num(saliency).astype(np.float32))
