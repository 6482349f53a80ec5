"""What moves the weights: the optimiser and the learning rate of a step."""

from __future__ import annotations

import math

import torch
from torch import nn

from train.config import Config


def make_optimizer(config: Config, method: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum 0.9 over the method's trained parameters."""
    trained = [p for p in method.parameters() if p.requires_grad]
    return torch.optim.SGD(trained, config.lr, momentum=0.9, weight_decay=config.weight_decay)


def learning_rate(config: Config, step: int, steps_per_epoch: int) -> float:
    """The rate of a step (0, 1, ...): a linear rise over the warm-up, then half a cosine over all steps."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / (steps_per_epoch * config.epochs)))
    rise = config.warmup * steps_per_epoch
    return config.lr * cosine * min(1.0, (step + 1) / rise if rise else 1.0)
