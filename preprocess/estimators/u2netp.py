"""U²-Net's small version, 1.1 M parameters (Qin et al., Pattern Recognition 2020): trained on
DUTS's human masks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from preprocess.networks.squashed import finish, prepare, run
from preprocess.networks.weights import Source

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PARAMETERS", "VERSION", "WEIGHTS", "build", "finish", "prepare", "run"]
VERSION = 1
PARAMETERS = {"side": 320}
WEIGHTS = Source(
    ("u2netp.pth",),
    "the links in the README of github.com/xuebinqin/U-2-Net",
    {"u2netp.pth": "md5 e4f636406ca4e2af789941e7f139ee2e"},
)


def build(state: dict | None = None, side: int = 320) -> nn.Module:
    from preprocess.networks.u2net import SMALL, U2Net

    return U2Net(SMALL)
