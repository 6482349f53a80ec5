"""Heads that a method puts in the place of a backbone's `fc`."""

from __future__ import annotations

from torch import nn


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
