"""Spectral residual (Hou and Zhang, CVPR 2007), OpenCV's: very fast and weak; a smoke test's
baseline."""

from __future__ import annotations

import cv2
import numpy as np

VERSION = 2
PARAMETERS: dict = {}
SIDE = 64  # the method looks at the image at this size only


def saliency(image: np.ndarray) -> np.ndarray:
    """Spectral residual of an (H, W, 3) uint8 RGB image: float32 (64, 64) in [0, 1], the whole
    image squashed."""
    # sampled as OpenCV's own class does: averaging all pixels first is no better and takes a third
    # of decoding's time
    grey = cv2.cvtColor(
        cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), cv2.COLOR_RGB2GRAY
    )
    if grey.min() == grey.max():  # a flat image has no spectrum to leave a residual
        return np.zeros((SIDE, SIDE), np.float32)
    found, saliency_map = cv2.saliency.StaticSaliencySpectralResidual_create().computeSaliency(grey)
    if not found:
        return np.zeros((SIDE, SIDE), np.float32)
    return np.clip(np.nan_to_num(saliency_map), 0, 1).astype(np.float32)
