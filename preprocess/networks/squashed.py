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
        """(B, side, side, 3) uint8 to the network's (B, h, w) maps; each image is divided by its
        maximum, a black one by one, as U²-Net's and BASNet's ToTensorLab do."""
        return network(normalise(batch, batch.float().amax((1, 2, 3), keepdim=True).clamp(min=1)))

    def finish(self, output: np.ndarray) -> np.ndarray:
        """A map stretched to [0, 1] by its own least and largest value; a flat one as it is.

        The authors' function takes both values from the whole batch, which they only ever fill
        with one image.
        """
        low, high = float(output.min()), float(output.max())
        if high - low < FLAT:
            return np.clip(output, 0, 1)
        return (output - np.float32(low)) / np.float32(high - low)


def normalise(batch: Tensor, largest: Tensor | float = 255) -> Tensor:
    """(B, h, w, 3) uint8, divided by `largest`, to (B, 3, h, w) float32 with ImageNet's mean and
    standard deviation."""
    import torch

    mean, std = (torch.tensor(values, device=batch.device) for values in (MEAN, STD))
    return ((batch.float() / largest - mean) / std).permute(0, 3, 1, 2)
