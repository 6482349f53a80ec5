"""U²-Net's small version, 1.1 M parameters (Qin et al., Pattern Recognition 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preprocess.networks.squashed import Squashed
from preprocess.networks.weights import Source

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class U2NetP(Squashed):
    """Trained by its authors on DUTS's human masks."""

    name = "u2netp"
    source = Source(
        ("u2netp.pth",),
        "the links in the README of github.com/xuebinqin/U-2-Net",
        {"u2netp.pth": "md5 e4f636406ca4e2af789941e7f139ee2e"},
    )

    def build(self, state: dict | None = None) -> nn.Module:
        from preprocess.networks import u2net

        return u2net.U2Net(u2net.SMALL)
