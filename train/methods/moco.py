"""MoCo v1 and v2: momentum contrast with a queue of negatives (He et al., CVPR 2020; Chen et al.,
arXiv 2003.04297)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from train.config import Config, Count, Positive, Share
from train.distributed import gather, local_part, rank, world
from train.methods.heads import HeadSettings
from train.methods.negatives import own_negative
from train.network import backbone_of
from train.streams import SHUFFLE, stream


def info_nce(
    query: torch.Tensor,
    key: torch.Tensor,
    queue: torch.Tensor,
    temperature: float,
    batch_negatives: bool = False,
    negative: torch.Tensor | None = None,
    counts: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """InfoNCE over one positive and the queue's negatives (He et al., equation 1).

    Args:
        query, key: (B, D), unit length.  queue: (D, K), unit columns.
        batch_negatives: the batch's other keys, of all processes, are negatives too (as in MoCo v3,
            Chen et al., ICCV 2021).
        negative: (B, D), unit length, or None: one more negative for each query (Ryali et al.,
            arXiv 2103.12719).
        counts: (B,) bool, the queries that have it; None: all.

    Returns:
        the mean loss, a scalar, and the share of queries whose own key is the nearest, in 0..1.
    """
    if batch_negatives:
        positive = query @ gather(key).T
        target = torch.arange(len(query), device=query.device) + rank() * len(query)
    else:
        positive = (query * key).sum(1, keepdim=True)
        target = query.new_zeros(len(query), dtype=torch.long)
    extra = [] if negative is None else [own_negative(query, negative, counts)]
    logits = torch.cat([positive, query @ queue, *extra], 1) / temperature
    return F.cross_entropy(logits, target), (logits.argmax(1) == target).float().mean()


@dataclass(frozen=True)
class Settings(HeadSettings):
    """MoCo v1 and v2."""

    method: Literal["moco"] = "moco"
    dim: Count = 128
    """Dimensions of the contrastive embedding."""
    temperature: Positive = 0.2
    """Softmax temperature (T)."""
    momentum: Share = 0.999
    """MoCo: momentum of the key encoder (m)."""
    queue: Count = 65536
    """MoCo: negatives kept in the queue (K); need not divide by the batch."""
    symmetric: bool = False
    """MoCo: use each view as query and as key (twice the time; MoCo's small-data recipe)."""
    batch_negatives: bool = False
    """MoCo: use the batch's other keys as negatives besides the queue's (not v2; helps runs of a
    few hundred steps)."""

    def make(self, config: Config, images: int) -> MoCo:
        """The method of a configuration."""
        return MoCo(backbone_of(config.network), self, config.seed)


class MoCo(nn.Module):
    """Query and key encoder, and the queue.

    Args:
        network: has an `fc`, which becomes the projection head.
        seed: of the shuffles.
    """

    def __init__(self, network: nn.Module, settings: Settings, seed: int = 0):
        super().__init__()
        self.settings, self.seed = settings, seed
        self.query = network
        self.query.fc = settings.projection(network.fc.in_features, settings.dim)
        self.key = copy.deepcopy(self.query)
        self.key.requires_grad_(False)
        queue = torch.randn(settings.dim, settings.queue)
        self.register_buffer("queue", F.normalize(queue, dim=0))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @property
    def encoder(self) -> nn.Module:
        return self.query

    def forward(
        self,
        views: Sequence[torch.Tensor],
        step: int,
        index: torch.Tensor | None = None,
        negative: torch.Tensor | None = None,
        counts: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See train/methods/__init__.py; moves the key encoder and the queue, which takes no extra
        negatives."""
        first, second = views
        self._move_key_encoder()
        if negative is not None:
            negative = self.keys(negative, step, 2)
        if self.settings.symmetric:
            loss_a, accuracy_a, key_a = self._one_way(first, second, step, 0, negative, counts)
            loss_b, accuracy_b, key_b = self._one_way(second, first, step, 1, negative, counts)
            self.enqueue(torch.cat([gather(key_a), gather(key_b)]))
            return (loss_a + loss_b) / 2, (accuracy_a + accuracy_b) / 2
        loss, accuracy, key = self._one_way(first, second, step, 0, negative, counts)
        self.enqueue(gather(key))
        return loss, accuracy

    def _one_way(
        self,
        query_view: torch.Tensor,
        key_view: torch.Tensor,
        step: int,
        way: int,
        negative: torch.Tensor | None,
        counts: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        query = F.normalize(self.query(query_view), dim=1)
        key = self.keys(key_view, step, way)
        # a logit of 1 / T in bfloat16 would be 3 % off
        with torch.autocast(query.device.type, enabled=False):
            loss, accuracy = info_nce(
                query.float(),
                key.float(),
                self.queue.clone(),
                self.settings.temperature,
                self.settings.batch_negatives,
                negative,
                counts,
            )
        return loss, accuracy, key

    @torch.no_grad()
    def keys(self, view: torch.Tensor, step: int, way: int) -> torch.Tensor:
        """Keys of a batch, computed in a shuffled order: a key must not share its BatchNorm split
        with its query.

        Several processes shuffle the global batch as one would: each encodes its part of the
        shuffled views.
        """
        order = stream(SHUFFLE, self.seed, 0, step, way).permutation(world() * len(view))
        order = torch.from_numpy(order).to(view.device, non_blocking=True)
        shuffled = gather(F.normalize(self.key(gather(view)[local_part(order)]), dim=1))
        keys = torch.empty_like(shuffled)
        keys[order] = shuffled
        return local_part(keys)

    @torch.no_grad()
    def _move_key_encoder(self) -> None:
        torch._foreach_lerp_(
            list(self.key.parameters()), list(self.query.parameters()), 1 - self.settings.momentum
        )

    @torch.no_grad()
    def enqueue(self, keys: torch.Tensor) -> None:
        """Put the newest keys, of all processes in order, over the oldest; the queue's length need
        not divide by the batch."""
        length = self.queue.shape[1]
        keys = keys[-length:]
        at = (self.pointer + torch.arange(len(keys), device=keys.device)) % length
        self.queue[:, at] = keys.T.to(self.queue.dtype)
        self.pointer.add_(len(keys)).remainder_(length)
