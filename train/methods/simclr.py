"""SimCLR: each view's partner among all views of the batch (Chen et al., ICML 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.config import Config, MethodSettings, Positive, Width
from train.distributed import gather_with_gradient, rank
from train.methods.base import Maybe, Result, classify, mlp, own_negative
from train.network import backbone_of


def nt_xent(
    embedding: Tensor, temperature: float, negative: Maybe = None, counts: Maybe = None
) -> Result:
    """The normalised temperature-scaled cross entropy (Chen et al., equation 1): every view against
    all 2N - 1 others.

    Args:
        embedding: (2B, D), unit length; rows 2i and 2i + 1 are image i's views. Other processes'
            join as negatives.
        negative: (B, D), unit length, or None: one more negative for both views of each image.
        counts: (B,) bool, the images that have it; None: all.

    Returns:
        the mean loss over these 2B views, a scalar, and the share of them that prefer their
        partner, in 0..1.
    """
    everyone = gather_with_gradient(embedding)
    row = torch.arange(len(embedding), device=embedding.device)
    itself = row + rank() * len(embedding)
    logits = embedding @ everyone.T / temperature
    # not -inf, whose gradient a product with 0 turns into nan
    logits = logits.index_put((row, itself), logits.new_tensor(torch.finfo(logits.dtype).min))
    if negative is not None:
        twice = None if counts is None else counts.repeat_interleave(2)
        own = own_negative(embedding, negative.repeat_interleave(2, 0), twice)
        logits = torch.cat([logits, own / temperature], 1)
    return classify(logits, itself ^ 1)  # a view's partner is its neighbour


def projection(features: int, hidden: int, dim: int) -> nn.Sequential:
    """Two layers with BatchNorm after each, the last without a shift, as in SimCLR's published
    code."""
    head = mlp(features, hidden, dim, True, last_bias=False, first_bias=False)
    head.append(nn.BatchNorm1d(dim))
    head[-1].bias.requires_grad_(False)  # it stays 0
    return head


@dataclass(frozen=True)
class Settings(MethodSettings):
    """SimCLR."""

    method: Literal["simclr"] = "simclr"
    temperature: Positive = 0.2
    """Softmax temperature (T)."""
    hidden: Width = 0
    """Width of the head's hidden layer; 0 takes the backbone's number of features."""

    def make(self, config: Config, images: int) -> SimCLR:
        """The method of a configuration."""
        return SimCLR(backbone_of(config.network), self)


class SimCLR(nn.Module):
    """One encoder for both views.

    Both go through it together, so that BatchNorm sees 2B views, as published; an image's two views
    lie side by side, so that they share a BatchNorm group whatever the number of groups or
    processes.

    Args:
        network: has an `fc`, which becomes the projection head.
    """

    def __init__(self, network: nn.Module, settings: Settings):
        super().__init__()
        self.temperature, self.encoder = settings.temperature, network
        features = network.fc.in_features
        sizes = features, settings.hidden or features, settings.dim
        network.fc = projection(*sizes) if settings.head_norm else mlp(*sizes, False)

    def forward(
        self,
        views: Sequence[Tensor],
        step: int,
        index: Maybe = None,
        negative: Maybe = None,
        counts: Maybe = None,
    ) -> Result:
        """See train/methods/__init__.py. The extra negatives are encoded with the views, with
        gradients."""
        both = interleave([*views] if negative is None else [*views, negative])
        embedding = F.normalize(self.encoder(both), dim=1)
        with torch.autocast(embedding.device.type, enabled=False):
            embedding = embedding.float()
            if negative is None:
                return nt_xent(embedding, self.temperature)
            parts = embedding.unflatten(0, (-1, 3))
            return nt_xent(parts[:, :2].flatten(0, 1), self.temperature, parts[:, 2], counts)


def interleave(views: Sequence[Tensor]) -> Tensor:
    """V batches of (B, C, s, s) as one of (V * B, C, s, s), channels last, an image's views side by
    side."""
    both = torch.stack([*views], 1).flatten(0, 1)
    return both.contiguous(memory_format=torch.channels_last)
