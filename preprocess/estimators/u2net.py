"""U²-Net and its small version (Qin et al., Pattern Recognition 2020), by DUTS's human masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from preprocess.networks.base import Architecture
from preprocess.networks.weights import Source

if TYPE_CHECKING:
    from torch import nn

README = "the links in the README of github.com/xuebinqin/U-2-Net"


@dataclass(frozen=True)
class U2Net(Architecture):
    """44 M parameters."""

    name = "u2net"
    source = Source(("u2net.pth",), README, {"u2net.pth": "09fb4e49b7f785c9f855baf94916840a"})

    def build(self, state: dict | None = None) -> nn.Module:
        from preprocess.networks import u2net

        return u2net.U2Net(u2net.STAGES[self.name])


@dataclass(frozen=True)
class U2NetP(U2Net):
    """1.1 M parameters."""

    name = "u2netp"
    source = Source(("u2netp.pth",), README, {"u2netp.pth": "e4f636406ca4e2af789941e7f139ee2e"})
