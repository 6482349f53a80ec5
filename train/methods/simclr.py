"""SimCLR: each view's partner among all views of the batch (Chen et al., ICML 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import nn

from train.config import Config, Count, MethodSettings, Positive, Range
from train.distributed import gather_with_gradient, rank
from train.methods.heads import simclr_head
from train.methods.negatives import own_negative
from train.network import backbone_of


def nt_xent(
    embedding: torch.Tensor,
    temperature: float,
    negative: torch.Tensor | None = None,
    counts: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
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
    target = itself ^ 1  # a view's partner is its neighbour
    return F.cross_entropy(logits, target), (logits.argmax(1) == target).float().mean()


@dataclass(frozen=True)
class Settings(MethodSettings):
    """SimCLR."""

    method: Literal["simclr"] = "simclr"
    dim: Count = 128
    """Dimensions of the contrastive embedding."""
    temperature: Positive = 0.2
    """Softmax temperature (T)."""
    hidden: Annotated[int, Range(0)] = 0
    """Width of the head's hidden layer; 0 takes the backbone's number of features."""
    head_norm: bool = False
    """BatchNorm in the head, as published."""

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
        hidden = settings.hidden or features
        network.fc = simclr_head(features, hidden, settings.dim, settings.head_norm)

    def forward(
        self,
        views: Sequence[torch.Tensor],
        step: int,
        index: torch.Tensor | None = None,
        negative: torch.Tensor | None = None,
        counts: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
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


def interleave(views: Sequence[torch.Tensor]) -> torch.Tensor:
    """V batches of (B, C, s, s) as one of (V * B, C, s, s), channels last, an image's views side by
    side."""
    count, (batch, *shape) = len(views), views[0].shape
    both = torch.empty(
        count * batch,
        *shape,
        device=views[0].device,
        dtype=views[0].dtype,
        memory_format=torch.channels_last,
    )
    for i, view in enumerate(views):
        both[i::count] = view
    return both
