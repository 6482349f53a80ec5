"""A run's state: begun or continued, saved, and never with a number that is not finite."""

from __future__ import annotations

import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from data.cli import UsageError
from train import checkpoint, distributed
from train.batch_norm import spread_batch_norm
from train.config import Config
from train.loader import Order
from train.network import compile_networks
from train.optimise import make_optimizer


class FiniteLosses:
    """Notices a loss that is not finite: on a CPU at its step, on a GPU two steps later, so that
    the host never waits for it, or at once with `wait`.

    Attributes:
        step: the first step of such a loss on this process; 0 as long as there was none.
    """

    def __init__(self, device: torch.device):
        self.lag = 2 if device.type == "cuda" else 0
        self.waiting: deque[tuple[int, torch.Tensor]] = deque()
        self.step = 0

    def add(self, step: int, loss: torch.Tensor) -> None:
        """Take the loss of a step, a scalar on the device."""
        self.waiting.append((step, loss.detach().isfinite()))

    def failed(self, wait: bool = False) -> bool:
        """Whether there was one."""
        while len(self.waiting) > (0 if wait else self.lag):
            step, is_finite = self.waiting.popleft()
            if not self.step and not is_finite.item():
                self.step = step
        return self.step > 0


@dataclass
class Run:
    """What a run has learned, and how far it is.

    Attributes:
        images: how many the run has.
        method: the networks and memories.
        model: what is called at each step: the method, or it in DistributedDataParallel.
        step: steps done.
    """

    config: Config
    images: int
    out: Path
    method: nn.Module
    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0

    def save(self, losses: FiniteLosses, failed: bool = False) -> None:
        """Write a checkpoint, on the process that writes.

        Raises:
            UsageError: instead, where a loss or a weight is not finite (`failed`: it is known), so
                that nothing of it is ever kept.
        """
        state = self.method.state_dict()
        writes = distributed.rank() == 0
        failed = failed or losses.failed(wait=True) or not checkpoint.finite(state)
        if distributed.any_rank(failed):
            step = distributed.any_rank(losses.step) or self.step
            if not writes:
                sys.exit(2)
            raise UsageError(checkpoint.write_diverged(self.out, self._diverged(step)))
        if writes:
            content = {"model": state, "optimizer": self.optimizer.state_dict(), "step": self.step}
            checkpoint.save_step(self.out, content, self.config.runtime.keep)

    def _diverged(self, step: int) -> dict:
        """What is needed to see the batch of a step again: JSON-able."""
        optimiser, seed = self.config.optimiser, self.config.seed
        order = Order(self.images, optimiser.batch, optimiser.epochs, seed, step - 1)
        indices = [index for _, index in next(iter(order))]
        return {"step": step, "lr": optimiser.lr, "seed": seed, "indices": indices}


def begin(config: Config, images: int, device: torch.device, out: Path) -> Run:
    """The run at its first step, or as its newest checkpoint has it."""
    torch.manual_seed(config.seed)
    method = config.method.make(config, images).to(device, memory_format=torch.channels_last)
    spread_batch_norm(method, config.network.splits, device)
    run = Run(config, images, out, method, method, make_optimizer(config.optimiser, method))
    state = checkpoint.newest(out)
    if state is not None:
        method.load_state_dict(state["model"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.step = state["step"]
    if config.runtime.compile:
        compile_networks(method)
    if distributed.world() > 1:
        devices = [device] if device.type == "cuda" else None
        # memories are gathered and so are equal everywhere; broadcasting a 33 MB queue every step
        # would be waste
        run.model = DistributedDataParallel(method, devices, broadcast_buffers=False)
    return run
