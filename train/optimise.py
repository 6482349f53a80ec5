"""What moves the weights: the optimiser and the learning rate of a step."""

import math

import torch
from torch import Tensor, nn

from train.config import Optimiser

MOMENTUM = 0.9


def make_optimizer(settings: Optimiser, method: nn.Module) -> torch.optim.Optimizer:
    """The configured optimiser over the method's trained parameters; momentum 0.9."""
    trained = [p for p in method.parameters() if p.requires_grad]
    if settings.optimizer == "lars":
        weights = {"params": [p for p in trained if p.ndim > 1]}
        small = {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0, "trust": None}
        return Lars([weights, small], settings.lr, weight_decay=settings.weight_decay)
    fused = trained[0].is_cuda or None  # one kernel instead of several, where there is a GPU
    decay = settings.weight_decay
    return torch.optim.SGD(trained, settings.lr, MOMENTUM, weight_decay=decay, fused=fused)


class Lars(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al., arXiv 1708.03888) as SimCLR and BYOL use it.

    Of each tensor w with gradient g: g <- g + weight_decay w; v <- momentum v + lr (trust |w| /
    |g|) g; w <- w - v. The ratio is 1 where |w| or |g| is 0, and in groups whose `trust` is None
    (biases and norms).
    """

    def __init__(self, params: list[dict], lr: float, weight_decay: float):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "trust": 0.001})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, group)

    def _move(self, weight: Tensor, group: dict) -> None:
        change = weight.grad
        if group["weight_decay"]:
            change = change.add(weight, alpha=group["weight_decay"])
        if group["trust"] is not None:
            size, slope = weight.norm(), change.norm()
            # on the device, without a host synchronisation
            ratio = torch.where((size > 0) & (slope > 0), group["trust"] * size / slope, 1.0)
            change = change * ratio
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        velocity = state["momentum_buffer"].mul_(MOMENTUM).add_(change, alpha=group["lr"])
        weight.sub_(velocity)


def learning_rate(settings: Optimiser, step: int, steps_per_epoch: int) -> float:
    """The rate of a step (0, 1, ...): a linear rise over the warm-up, and the fall that
    --schedule names."""
    steps, rise = steps_per_epoch * settings.epochs, settings.warmup * steps_per_epoch
    risen = min(1.0, (step + 1) / rise if rise else 1.0)
    if settings.schedule == "step":
        falls = sum(step >= epoch * steps_per_epoch for epoch in settings.milestones)
        return settings.lr * 0.1**falls * risen
    if settings.schedule == "warmup_cosine":
        if step < rise:
            return settings.lr * risen
        step, steps = step - rise, steps - rise
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    return settings.lr * cosine * risen
