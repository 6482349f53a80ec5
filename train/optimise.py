"""What moves the weights: the optimiser and the learning rate of a step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from train.config import Config


def make_optimizer(config: Config, method: nn.Module) -> torch.optim.Optimizer:
    """The configured optimiser over the method's trained parameters; momentum 0.9."""
    trained = [p for p in method.parameters() if p.requires_grad]
    if config.optimizer == "lars":
        return Lars(
            [
                {"params": [p for p in trained if p.ndim > 1]},
                {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0, "trust": None},
            ],
            config.lr,
            weight_decay=config.weight_decay,
        )
    return torch.optim.SGD(trained, config.lr, momentum=0.9, weight_decay=config.weight_decay)


class Lars(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al., arXiv 1708.03888) as SimCLR and BYOL use it.

    Of each tensor w with gradient g: g <- g + weight_decay w; v <- momentum v + lr (trust |w| /
    |g|) g; w <- w - v. The ratio is 1 where |w| or |g| is 0, and in groups whose `trust` is None (biases and norms).
    """

    def __init__(
        self,
        params,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float | None = 0.001,
    ):
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, group)
        return loss

    def _move(self, weight: torch.Tensor, group: dict) -> None:
        change = weight.grad
        if group["weight_decay"]:
            change = change.add(weight, alpha=group["weight_decay"])
        if group["trust"] is not None:
            size, slope = weight.norm(), change.norm()
            ratio = torch.where(
                (size > 0) & (slope > 0), group["trust"] * size / slope, 1.0
            )  # on the device, unasked
            change = change * ratio
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(change, alpha=group["lr"])
        weight.sub_(velocity)


def learning_rate(config: Config, step: int, steps_per_epoch: int) -> float:
    """The rate of a step (0, 1, ...): a linear rise over the warm-up, and the fall that
    config.schedule names."""
    steps, rise = steps_per_epoch * config.epochs, config.warmup * steps_per_epoch
    risen = min(1.0, (step + 1) / rise if rise else 1.0)
    if config.schedule == "step":
        return (
            config.lr
            * 0.1 ** sum(step >= epoch * steps_per_epoch for epoch in config.milestones)
            * risen
        )
    if config.schedule == "warmup_cosine":
        if step < rise:
            return config.lr * risen
        step, steps = step - rise, steps - rise
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    return config.lr * cosine * risen
