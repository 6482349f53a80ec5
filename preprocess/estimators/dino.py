"""TokenCut (Wang et al., CVPR 2022) on a self-supervised vision transformer: no human label.

NOTE: images are squashed to a square, so that they come in batches; the mask's edge is
interpolated, and `--refine guided` stands in for the authors' bilateral solver.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from preprocess.networks.base import Architecture, normalise
from preprocess.networks.weights import Source

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class DINO(Architecture):
    """An object by the normalised cut of DINO's or DINOv2's key features.

    Args:
        side: of the squashed image, px: a multiple of 8, 14 and 16.
        tau: see preprocess.networks.tokencut.cut.
    """

    name = "dino"
    source = Source(
        (
            "dino_deitsmall16_pretrain.pth",
            "dino_deitsmall8_pretrain.pth",
            "dino_vitbase16_pretrain.pth",
            "dino_vitbase8_pretrain.pth",
            "dinov2_vits14_pretrain.pth",
            "dinov2_vitb14_pretrain.pth",
        ),
        "the links in the READMEs of github.com/facebookresearch/dino (backbone only) and "
        ".../dinov2 (without registers), or timm's model.safetensors; no checksum is published",
    )
    ignored = ("mask_token", "head.")
    side: int = 336
    tau: float = 0.2

    def build(self, state: dict | None = None) -> nn.Module:
        """A vision transformer of the size that the file's shapes say; S/16 without one."""
        from preprocess.networks import vit

        return vit.build(**(vit.SMALL if state is None else vit.shape_of(state)))

    def run(self, network: nn.Module, batch: Tensor) -> Tensor:
        from preprocess.networks import vit

        return vit.keys(network, normalise(batch))

    def finish(self, output: np.ndarray) -> np.ndarray:
        from preprocess.networks import tokencut

        return tokencut.cut(output, self.tau)
