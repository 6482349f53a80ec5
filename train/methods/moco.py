"""MoCo v1 and v2: momentum contrast with a queue of negatives (He et al., CVPR 2020; Chen et al.,
arXiv 2003.04297)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.config import Config, Count, Share
from train.distributed import gather, local_part, rank, world
from train.methods.base import HeadSettings, Maybe, Result, classify, follow, own_negative
from train.network import backbone_of
from train.streams import SHUFFLE, stream


def info_nce(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    temperature: float,
    batch_negatives: bool,
    negative: Maybe,
    counts: Maybe,
) -> Result:
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
    return classify(torch.cat([positive, query @ queue, *extra], 1) / temperature, target)


@dataclass(frozen=True)
class Settings(HeadSettings):
    """MoCo v1 and v2."""

    method: Literal["moco"] = "moco"
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
        self.query.fc = settings.projection(network.fc.in_features)
        self.key = copy.deepcopy(self.query)
        self.key.requires_grad_(False)
        queue = torch.randn(settings.dim, settings.queue)
        self.register_buffer("queue", F.normalize(queue, dim=0))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @property
    def encoder(self) -> nn.Module:
        return self.query

    @property
    def slow(self) -> nn.Module:
        return self.key

    def forward(
        self,
        views: Sequence[Tensor],
        step: int,
        index: Maybe = None,
        negative: Maybe = None,
        counts: Maybe = None,
    ) -> Result:
        """See train/methods/__init__.py; moves the key encoder and the queue, which takes no extra
        negatives."""
        follow(self.key, self.query, 1 - self.settings.momentum)
        if negative is not None:
            negative = self.keys(negative, step, 2)
        pairs = [views, views[::-1]] if self.settings.symmetric else [views]
        results, keys = [], []
        for way, (first, second) in enumerate(pairs):
            query, key = F.normalize(self.query(first), dim=1), self.keys(second, step, way)
            keys.append(key)
            # a logit of 1 / T in bfloat16 would be 3 % off
            with torch.autocast(query.device.type, enabled=False):
                batch = query.float(), key.float(), self.queue.clone(), self.settings.temperature
                extra = self.settings.batch_negatives, negative, counts
                results.append(info_nce(*batch, *extra))
        self.enqueue(torch.cat([gather(key) for key in keys]))
        losses, accuracies = zip(*results, strict=True)
        return sum(losses) / len(pairs), sum(accuracies) / len(pairs)

    @torch.no_grad()
    def keys(self, view: Tensor, step: int, way: int) -> Tensor:
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
    def enqueue(self, keys: Tensor) -> None:
        """Put the newest keys, of all processes in order, over the oldest; the queue's length need
        not divide by the batch."""
        length = self.queue.shape[1]
        keys = keys[-length:]
        at = (self.pointer + torch.arange(len(keys), device=keys.device)) % length
        self.queue[:, at] = keys.T.to(self.queue.dtype)
        self.pointer.add_(len(keys)).remainder_(length)
