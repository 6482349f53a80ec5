"""MoCo v2: momentum contrast with a queue of negatives (He et al., CVPR 2020; Chen et al., arXiv 2003.04297)."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from train.streams import SHUFFLE, stream


def info_nce(query: torch.Tensor, key: torch.Tensor, queue: torch.Tensor,
             temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """InfoNCE over one positive and the queue's negatives (He et al., equation 1).

    Args:
        query, key: (B, D), unit length.  queue: (D, K), unit columns.

    Returns:
        the mean loss, a scalar, and the share of queries whose own key is the nearest, in 0..1.
    """
    positive = (query * key).sum(1, keepdim=True)
    logits = torch.cat([positive, query @ queue], 1).float() / temperature
    target = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
    return F.cross_entropy(logits, target), (logits.argmax(1) == 0).float().mean()


class MoCo(nn.Module):
    """Query and key encoder, and the queue.

    Args:
        backbone: makes a network with an `fc`, which becomes the two-layer projection head.
        dim: D, of the embedding.  queue: K.  momentum: m of the key encoder.  temperature: T.
        symmetric: average the loss over both roles of the two views.
        seed: of the shuffles and the queue's first, random content.
    """

    def __init__(self, backbone: Callable[[], nn.Module], dim: int, queue: int, momentum: float, temperature: float,
                 symmetric: bool, seed: int):
        super().__init__()
        self.momentum, self.temperature, self.symmetric, self.seed = momentum, temperature, symmetric, seed
        self.query = backbone()
        features = self.query.fc.in_features
        self.query.fc = nn.Sequential(nn.Linear(features, features), nn.ReLU(inplace=True), nn.Linear(features, dim))
        self.key = copy.deepcopy(self.query)
        self.key.requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(dim, queue), dim=0))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def forward(self, first: torch.Tensor, second: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and contrastive accuracy of a batch, (B, 3, s, s) a view; moves the key encoder and the queue."""
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
        loss, accuracy = info_nce(query, key, self.queue.clone(), self.temperature)
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
