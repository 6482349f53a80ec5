"""MoCo v2: momentum contrast with a queue of negatives (He et al., CVPR 2020; Chen et al., arXiv 2003.04297)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from train.config import Config
from train.network import backbone
from train.streams import SHUFFLE, stream


def info_nce(query: torch.Tensor, key: torch.Tensor, queue: torch.Tensor, temperature: float,
             batch_negatives: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """InfoNCE over one positive and the queue's negatives (He et al., equation 1).

    Args:
        query, key: (B, D), unit length.  queue: (D, K), unit columns.
        batch_negatives: the batch's other keys are negatives too (as in MoCo v3, Chen et al., ICCV 2021).

    Returns:
        the mean loss, a scalar, and the share of queries whose own key is the nearest, in 0..1.
    """
    if batch_negatives:
        positive, target = query @ key.T, torch.arange(len(query), device=query.device)
    else:
        positive, target = (query * key).sum(1, keepdim=True), query.new_zeros(len(query), dtype=torch.long)
    logits = torch.cat([positive, query @ queue], 1).float() / temperature
    return F.cross_entropy(logits, target), (logits.argmax(1) == target).float().mean()


class MoCo(nn.Module):
    """Query and key encoder, and the queue.

    Args:
        backbone: makes a network with an `fc`, which becomes the two-layer projection head.
        dim: D, of the embedding.  queue: K.  momentum: m of the key encoder.  temperature: T.
        symmetric: average the loss over both roles of the two views.
        batch_negatives: see info_nce.  head_norm: BatchNorm between the head's layers; MoCo v2 has neither.
        seed: of the shuffles.
    """

    VIEWS = 2

    def __init__(self, backbone: Callable[[], nn.Module], dim: int, queue: int, momentum: float, temperature: float,
                 symmetric: bool = False, batch_negatives: bool = False, head_norm: bool = False, seed: int = 0):
        super().__init__()
        self.momentum, self.temperature, self.seed = momentum, temperature, seed
        self.symmetric, self.batch_negatives = symmetric, batch_negatives
        self.query = backbone()
        features = self.query.fc.in_features
        norm = [nn.BatchNorm1d(features)] if head_norm else []
        self.query.fc = nn.Sequential(nn.Linear(features, features), *norm, nn.ReLU(inplace=True),
                                      nn.Linear(features, dim))
        self.key = copy.deepcopy(self.query)
        self.key.requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(dim, queue), dim=0))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    @property
    def encoder(self) -> nn.Module:
        return self.query

    def forward(self, views: Sequence[torch.Tensor], step: int, index: torch.Tensor | None = None,
                negative: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """See train/methods/__init__.py; moves the key encoder and the queue."""
        first, second = views
        self._move_key_encoder()
        if self.symmetric:
            loss_a, accuracy_a, key_a = self._one_way(first, second, step, 0)
            loss_b, accuracy_b, key_b = self._one_way(second, first, step, 1)
            self._enqueue(torch.cat([key_a, key_b]))
            return (loss_a + loss_b) / 2, (accuracy_a + accuracy_b) / 2
        loss, accuracy, key = self._one_way(first, second, step, 0)
        self._enqueue(key)
        return loss, accuracy

    def _one_way(self, query_view: torch.Tensor, key_view: torch.Tensor, step: int,
                 way: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        query = F.normalize(self.query(query_view), dim=1)
        key = self._keys(key_view, step, way)
        loss, accuracy = info_nce(query, key, self.queue.clone(), self.temperature, self.batch_negatives)
        return loss, accuracy, key

    @torch.no_grad()
    def _keys(self, view: torch.Tensor, step: int, way: int) -> torch.Tensor:
        """Keys of a batch, computed in a shuffled order: a key must not share its BatchNorm split with its query."""
        order = stream(SHUFFLE, self.seed, 0, step, way).permutation(len(view))
        order = torch.from_numpy(order).to(view.device, non_blocking=True)
        shuffled = F.normalize(self.key(view[order]), dim=1)
        keys = torch.empty_like(shuffled)
        keys[order] = shuffled
        return keys

    @torch.no_grad()
    def _move_key_encoder(self) -> None:
        torch._foreach_lerp_(list(self.key.parameters()), list(self.query.parameters()), 1 - self.momentum)

    @torch.no_grad()
    def _enqueue(self, keys: torch.Tensor) -> None:
        """Put the newest keys over the oldest; the queue's length need not divide by the batch."""
        length = self.queue.shape[1]
        keys = keys[-length:]
        at = (self.pointer + torch.arange(len(keys), device=keys.device)) % length
        self.queue[:, at] = keys.T.to(self.queue.dtype)
        self.pointer.add_(len(keys)).remainder_(length)


def make(config: Config, images: int) -> MoCo:
    """The method of a configuration."""
    return MoCo(lambda: backbone(config.network, config.stem, config.width, config.splits), config.dim, config.queue,
                config.momentum, config.temperature, config.symmetric, config.batch_negatives, config.head_norm,
                config.seed)
