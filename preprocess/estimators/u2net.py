"""U²-Net, 44 M parameters (Qin et al., Pattern Recognition 2020): trained by its authors on DUTS's
human masks."""

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
    ("u2net.pth",),
    "the links in the README of github.com/xuebinqin/U-2-Net",
    {"u2net.pth": "md5 09fb4e49b7f785c9f855baf94916840a"},
)


def build(state: dict | None = None, side: int = 320) -> nn.Module:
    from preprocess.networks.u2net import LARGE, U2Net

    return U2Net(LARGE)
