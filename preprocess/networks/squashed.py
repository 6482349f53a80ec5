"""The common form of a saliency network: a photograph squashed to a square in, one map of it
out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from preprocess.vision.pixels import shrink

if TYPE_CHECKING:
    from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
FLAT = 1e-6  # a map with less contrast than this has nothing to stretch


def prepare(image: np.ndarray, side: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB squashed to (side, side, 3) uint8: bilinear, smoothed where it shrinks to
    under a half.

    The authors of U²-Net and BASNet keep the resized image in floating point: that differs by half
    a level.
    """
    return np.ascontiguousarray(shrink(image, side, side))


def run(network: nn.Module, batch: Tensor, side: int) -> Tensor:
    """(B, side, side, 3) uint8 to the network's (B, h, w) maps; each image is divided by its own
    largest value."""
    return network(normalise(batch))


def finish(output: np.ndarray, side: int) -> np.ndarray:
    """(h, w) float32 stretched to [0, 1] by its own least and largest value; one without contrast
    stays as it is.

    The authors' own function takes both values from the whole batch, which they only ever fill with
    one image.
    """
    low, high = float(output.min()), float(output.max())
    if high - low < FLAT:
        return np.clip(output, 0, 1)
    return (output - np.float32(low)) / np.float32(high - low)


def normalise(batch: Tensor) -> Tensor:
    """(B, h, w, 3) uint8 to (B, 3, h, w) float32: divided by each image's maximum, then ImageNet's
    mean and deviation.

    U²-Net's and BASNet's ToTensorLab; a black image is divided by one.
    """
    import torch

    x = batch.permute(0, 3, 1, 2).float()
    x = x / x.amax((1, 2, 3), keepdim=True).clamp(min=1.0)
    mean, std = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (x - mean) / std
