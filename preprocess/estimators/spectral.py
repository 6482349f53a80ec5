"""Spectral residual (Hou and Zhang, CVPR 2007), OpenCV's: very fast and weak; a smoke test."""

from dataclasses import dataclass

import cv2
import numpy as np

from preprocess.estimators.base import Estimator

SIDE = 64  # the method looks at the image at this size only


@dataclass(frozen=True)
class Spectral(Estimator):
    """Float32 (64, 64) in [0, 1], the whole image squashed."""

    name = "spectral"
    version = 2

    def working(self, image: np.ndarray) -> np.ndarray:
        # sampled as OpenCV's own class does: averaging all pixels first takes a third of decoding's
        # time and is no better
        small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        method = cv2.saliency.StaticSaliencySpectralResidual_create()
        computed, saliency = method.computeSaliency(grey)
        if not computed or grey.min() == grey.max():  # a flat image has no spectrum
            return np.zeros((SIDE, SIDE), np.float32)
        return np.clip(np.nan_to_num(saliency), 0, 1).astype(np.float32)
