"""BYOL: a prediction of a slow copy's view of the same image, without negatives (Grill et al.,
NeurIPS 2020)."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.config import Config, MethodSettings, Share, Width
from train.distributed import gather, rank
from train.methods.base import Maybe, Result, follow, mlp
from train.network import backbone_of


def regression_loss(prediction: Tensor, target: Tensor) -> Result:
    """2 - 2 cos between predictions and targets (Grill et al., equation 2), in 0..4.

    Args:
        prediction, target: (B, D), any length.

    Returns:
        the mean loss, a scalar, and the share of predictions nearest to their own target among the
        global batch's, in 0..1; the latter is only logged, never trained for.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        prediction = F.normalize(prediction.float(), dim=1)
        target = F.normalize(target.float(), dim=1)
        with torch.no_grad():
            nearest = (prediction @ gather(target).T).argmax(1)
            own = torch.arange(len(target), device=target.device) + rank() * len(target)
        return (2 - 2 * (prediction * target).sum(1)).mean(), (nearest == own).float().mean()


@dataclass(frozen=True)
class Settings(MethodSettings):
    """BYOL."""

    NO_SWAP: ClassVar[str] = (
        "has no negatives, so swap's negative with the query's background has no place; only its "
        "positive would change"
    )

    method: Literal["byol"] = "byol"
    hidden: Width = 0
    """Width of the heads' hidden layers; 0 takes the backbone's number of features."""
    momentum: Share = 0.999
    """BYOL: momentum of the target at first (tau), rising to 1 by half a cosine."""

    def make(self, config: Config, images: int) -> BYOL:
        """The method of a configuration."""
        steps = images // config.optimiser.batch * config.optimiser.epochs
        return BYOL(backbone_of(config.network), self, max(1, steps))


class BYOL(nn.Module):
    """Online encoder and predictor, and the target encoder that follows the online one.

    Args:
        network: has an `fc`, which becomes the projector.
        steps: of the run, over which the momentum rises.
    """

    def __init__(self, network: nn.Module, settings: Settings, steps: int):
        super().__init__()
        self.momentum, self.steps = settings.momentum, steps
        self.encoder = network
        features, dim, norm = network.fc.in_features, settings.dim, settings.head_norm
        hidden = settings.hidden or features
        self.encoder.fc = mlp(features, hidden, dim, norm, last_bias=False)
        self.predictor = mlp(dim, hidden, dim, norm, last_bias=False)
        self.target = copy.deepcopy(self.encoder)
        self.target.requires_grad_(False)

    @property
    def slow(self) -> nn.Module:
        return self.target

    def forward(self, views: Sequence[Tensor], step: int, *_: Maybe) -> Result:
        """See train/methods/__init__.py; the loss is the sum over both roles of the views. Index
        and negatives are not used."""
        if step:  # the paper's update after the step before; at step 0 both are still equal
            follow(self.target, self.encoder, 1 - self.tau(step - 1))
        with torch.no_grad():
            targets = [self.target(view) for view in views]
        predictions = [self.predictor(self.encoder(view)) for view in views]
        loss_a, accuracy_a = regression_loss(predictions[0], targets[1])
        loss_b, accuracy_b = regression_loss(predictions[1], targets[0])
        return loss_a + loss_b, (accuracy_a + accuracy_b) / 2

    def tau(self, step: int) -> float:
        """Momentum of the target after step 0, 1, ... (Grill et al., section 3.3)."""
        return 1 - (1 - self.momentum) * (math.cos(math.pi * step / self.steps) + 1) / 2
