"""BASNet, 87 M parameters (Qin et al., CVPR 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preprocess.networks.base import Architecture
from preprocess.networks.weights import Source

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class BASNet(Architecture):
    """Trained on DUTS's human masks; DiLo's weights started from random ones."""

    name = "basnet"
    source = Source(
        ("basnet_scratch.pth", "basnet.pth"),
        "the links in the READMEs of github.com/nanxuanzhao/DiLo (basnet_scratch.pth, without "
        "ImageNet's labels) and github.com/xuebinqin/BASNet (basnet.pth); no checksum is published",
    )
    side: int = 256

    def build(self, state: dict | None = None) -> nn.Module:
        from preprocess.networks import basnet

        return basnet.BASNet()
