"""The common form of a saliency network: a photograph squashed to a square in, one map out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from preprocess.networks.base import Architecture
from preprocess.vision.pixels import shrink

if TYPE_CHECKING:
    from torch import Tensor, nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
FLAT = 1e-6  # a map with less contrast than this has nothing to stretch


@dataclass(frozen=True)
class Squashed(Architecture):
    """A network with U²-Net's and BASNet's preparation; a subclass gives `build`.

    Args:
        side: of the squashed image, px.
    """

    side: int = 320

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """(side, side, 3) uint8: bilinear, smoothed where it shrinks to under a half.

        The authors keep the resized image in floating point: that differs by half a level.
        """
        return np.ascontiguousarray(shrink(image, self.side, self.side))

    def run(self, network: nn.Module, batch: Tensor) -> Tensor:
        """(B, side, side, 3) uint8 to the network's (B, h, w) maps."""
        return network(to_tensor_lab(batch))

    def finish(self, output: np.ndarray) -> np.ndarray:
        """A map stretched to [0, 1] by its own least and largest value; a flat one as it is.

        The authors' function takes both values from the whole batch, which they only ever fill
        with one image.
        """
        low, high = float(output.min()), float(output.max())
        if high - low < FLAT:
            return np.clip(output, 0, 1)
        return (output - np.float32(low)) / np.float32(high - low)


def to_tensor_lab(batch: Tensor) -> Tensor:
    """U²-Net's and BASNet's ToTensorLab: divide by each image's maximum, then normalise.

    Args:
        batch: (B, h, w, 3) uint8; a black image is divided by one.

    Returns:
        (B, 3, h, w) float32.
    """
    x = batch.permute(0, 3, 1, 2).float()
    return normalise(x / x.amax((1, 2, 3), keepdim=True).clamp(min=1.0))


def normalise(x: Tensor) -> Tensor:
    """(B, 3, h, w) in 0..1 with ImageNet's mean and standard deviation."""
    import torch

    mean, std = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (x - mean) / std
