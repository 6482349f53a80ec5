"""BYOL: a prediction of a slow copy's view of the same image, without negatives (Grill et al.,
NeurIPS 2020)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from train.config import Config
from train.distributed import gather, rank
from train.methods.heads import byol_head
from train.network import backbone


def regression_loss(
    prediction: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """2 - 2 cos between predictions and targets (Grill et al., equation 2), in 0..4.

    Args:
        prediction, target: (B, D), any length.

    Returns:
        the mean loss, a scalar, and the share of predictions nearest to their own target among the
        global batch's, in 0..1; the latter is only watched, never trained for.
    """
    with torch.autocast(prediction.device.type, enabled=False):
        prediction, target = (
            F.normalize(prediction.float(), dim=1),
            F.normalize(target.float(), dim=1),
        )
        with torch.no_grad():
            nearest = (prediction @ gather(target).T).argmax(1)
            own = torch.arange(len(target), device=target.device) + rank() * len(target)
        return (2 - 2 * (prediction * target).sum(1)).mean(), (nearest == own).float().mean()


class BYOL(nn.Module):
    """Online encoder and predictor, and the target encoder that follows the online one.

    Args:
        backbone: makes a network with an `fc`, which becomes the projector.
        dim: D, of projection and prediction.  hidden: of both hidden layers, 0 for as many as the
            backbone's features.
        momentum: tau at the first step; rises to 1 by half a cosine over `steps`, the run's.
        head_norm: BatchNorm in projector and predictor, as published.
    """

    VIEWS = 2

    def __init__(
        self,
        backbone: Callable[[], nn.Module],
        dim: int,
        momentum: float,
        steps: int,
        hidden: int = 0,
        head_norm: bool = True,
    ):
        super().__init__()
        self.momentum, self.steps = momentum, steps
        self.encoder = backbone()
        features = self.encoder.fc.in_features
        self.encoder.fc = byol_head(features, hidden or features, dim, head_norm)
        self.predictor = byol_head(dim, hidden or features, dim, head_norm)
        self.target = copy.deepcopy(self.encoder)
        self.target.requires_grad_(False)

    def forward(
        self,
        views: Sequence[torch.Tensor],
        step: int,
        index: torch.Tensor | None = None,
        negative: torch.Tensor | None = None,
        counts: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See train/methods/__init__.py; the loss is the sum over both roles of the views.
        `negative` is not used."""
        self._move_target(step)
        with torch.no_grad():
            targets = [self.target(view) for view in views]
        predictions = [self.predictor(self.encoder(view)) for view in views]
        loss_a, accuracy_a = regression_loss(predictions[0], targets[1])
        loss_b, accuracy_b = regression_loss(predictions[1], targets[0])
        return loss_a + loss_b, (accuracy_a + accuracy_b) / 2

    def tau(self, step: int) -> float:
        """Momentum of the target after step 0, 1, ... (Grill et al., section 3.3)."""
        return 1 - (1 - self.momentum) * (math.cos(math.pi * step / self.steps) + 1) / 2

    @torch.no_grad()
    def _move_target(self, step: int) -> None:
        """The update that the paper makes after the optimiser's step, made before the next one; at
        step 0 both are still equal."""
        if step:
            torch._foreach_lerp_(
                list(self.target.parameters()),
                list(self.encoder.parameters()),
                1 - self.tau(step - 1),
            )


def make(config: Config, images: int) -> BYOL:
    """The method of a configuration."""
    return BYOL(
        lambda: backbone(config.network, config.stem, config.width, config.splits),
        config.dim,
        config.momentum,
        max(1, images // config.batch * config.epochs),
        config.hidden,
        config.head_norm,
    )
