"""U²-Net, 44 M parameters (Qin et al., Pattern Recognition 2020), trained on DUTS's human masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preprocess.networks.squashed import Squashed
from preprocess.networks.weights import Source

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class U2Net(Squashed):
    name = "u2net"
    source = Source(
        ("u2net.pth",),
        "the links in the README of github.com/xuebinqin/U-2-Net",
        {"u2net.pth": "md5 09fb4e49b7f785c9f855baf94916840a"},
    )

    def build(self, state: dict | None = None) -> nn.Module:
        from preprocess.networks import u2net

        return u2net.U2Net(u2net.LARGE)
