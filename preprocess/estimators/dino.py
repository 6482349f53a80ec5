"""TokenCut (Wang et al., CVPR 2022) on a self-supervised vision transformer: no human label, not
even of a class.

Departures from the authors' code: images are squashed to a square, so that they come in batches;
the mask's edge is interpolated, and `--refine guided` stands in for their bilateral solver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from preprocess.networks import squashed
from preprocess.networks.weights import Source

if TYPE_CHECKING:
    from torch import Tensor, nn

VERSION = 1
PARAMETERS = {"side": 336, "tau": 0.2}  # px: a multiple of 8, 14 and 16
WEIGHTS = Source(
    (
        "dino_deitsmall16_pretrain.pth",
        "dino_deitsmall8_pretrain.pth",
        "dino_vitbase16_pretrain.pth",
        "dino_vitbase8_pretrain.pth",
        "dinov2_vits14_pretrain.pth",
        "dinov2_vitb14_pretrain.pth",
    ),
    "the links in the READMEs of github.com/facebookresearch/dino (backbone only) and .../dinov2 (without "
    "registers), or timm's model.safetensors; no checksum is published",
)


def prepare(image: np.ndarray, side: int, tau: float) -> np.ndarray:
    return squashed.prepare(image, side)


def convert(state: dict, side: int, tau: float) -> dict:
    from preprocess.networks import vit

    return vit.official(state)


def build(state: dict | None = None, side: int = 336, tau: float = 0.2) -> nn.Module:
    """DINO's or DINOv2's vision transformer (S, B or L, patches of 8, 14 or 16 px), by the file's
    shapes."""
    from preprocess.networks import vit

    return vit.build(**(vit.SMALL if state is None else vit.shape_of(state)))


def run(network: nn.Module, batch: Tensor, side: int, tau: float) -> Tensor:
    from preprocess.networks import vit

    return vit.keys(network, vit.normalise(batch))


def finish(output: np.ndarray, side: int, tau: float) -> np.ndarray:
    from preprocess.networks import tokencut

    grid = round(len(output) ** 0.5)
    return tokencut.cut(output, grid, grid, tau)
