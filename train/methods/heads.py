"""Heads that a method puts in the place of a backbone's `fc`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from data.cli import UsageError
from train.config import MethodSettings


@dataclass(frozen=True)
class HeadSettings(MethodSettings):
    """Of a method whose head may have one layer or two."""

    head: Literal["mlp", "linear"] = "mlp"
    """Projection head: two layers, or one (MoCo v1, InstDisc)."""
    head_norm: bool = False
    """BatchNorm in the head (MoCo v2 has not, but it helps runs of a few hundred steps)."""

    def check(self) -> None:
        if self.head == "linear" and self.head_norm:
            raise UsageError(
                "--head-norm needs --head mlp: a linear head has no place for BatchNorm"
            )

    def projection(self, features: int, dim: int) -> nn.Module:
        """The head of a backbone of so many features."""
        if self.head == "linear":
            return nn.Linear(features, dim)
        return mlp(features, features, dim, self.head_norm)


def mlp(features: int, hidden: int, dim: int, norm: bool) -> nn.Sequential:
    """Two layers with biases: MoCo v2's head, and with BatchNorm between them one for short
    runs."""
    between = [nn.BatchNorm1d(hidden)] if norm else []
    return nn.Sequential(
        nn.Linear(features, hidden), *between, nn.ReLU(inplace=True), nn.Linear(hidden, dim)
    )


def simclr_head(features: int, hidden: int, dim: int, norm: bool) -> nn.Sequential:
    """Two layers with BatchNorm after each, the last without a shift, as in SimCLR's published
    code; `norm` False has neither, and biases instead."""
    if not norm:
        return mlp(features, hidden, dim, False)
    last = nn.BatchNorm1d(dim)
    last.bias.requires_grad_(False)  # it stays 0
    return nn.Sequential(
        nn.Linear(features, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, dim, bias=False),
        last,
    )


def byol_head(features: int, hidden: int, dim: int, norm: bool) -> nn.Sequential:
    """BYOL's projector and predictor (Grill et al. 2020, section 3.3): linear, BatchNorm, ReLU,
    linear without bias."""
    between = [nn.BatchNorm1d(hidden)] if norm else []
    return nn.Sequential(
        nn.Linear(features, hidden),
        *between,
        nn.ReLU(inplace=True),
        nn.Linear(hidden, dim, bias=False),
    )
