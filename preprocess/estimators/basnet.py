"""BASNet, 87 M parameters (Qin et al., CVPR 2019): trained on DUTS's human masks; DiLo's own from
random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from preprocess.networks.squashed import finish, prepare, run
from preprocess.networks.weights import Source

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PARAMETERS", "VERSION", "WEIGHTS", "build", "finish", "prepare", "run"]
VERSION = 1
PARAMETERS = {"side": 256}
WEIGHTS = Source(
    ("basnet_scratch.pth", "basnet.pth"),
    "the links in the READMEs of github.com/nanxuanzhao/DiLo (basnet_scratch.pth, without ImageNet's "
    "labels) and github.com/xuebinqin/BASNet (basnet.pth); no checksum is published",
)


def build(state: dict | None = None, side: int = 256) -> nn.Module:
    from preprocess.networks.basnet import BASNet

    return BASNet()
