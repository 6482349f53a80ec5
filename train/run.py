"""A run's state: begun or continued, saved, and never with a number that is not finite."""

import sys
import warnings
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data.cli import UsageError
from data.tensors import fitting
from train import checkpoint, distributed
from train.batch_norm import spread_batch_norm
from train.config import Config
from train.loader import batch_of
from train.network import compile_networks
from train.optimise import make_optimizer
from train.weights import Weights, load_weights


class FiniteLosses:
    """Notices a loss that is not finite: on a CPU at its step, on a GPU two steps later, so that
    the host never waits for the last two steps, or at once with `wait`.

    Attributes:
        step: the first step of such a loss on this process; 0 as long as there was none.
    """

    def __init__(self, device: torch.device):
        self.lag = 2 if device.type == "cuda" else 0
        self.waiting: deque[tuple[int, Tensor, torch.cuda.Event | None]] = deque()
        self.step = 0

    def add(self, step: int, loss: Tensor) -> None:
        """Take the loss of a step, a scalar on the device."""
        is_finite, copied = loss.detach().isfinite(), None
        if self.lag:  # to read it on the device would wait for all that is queued there
            flag = torch.empty((), dtype=torch.bool, pin_memory=True)
            is_finite, copied = flag.copy_(is_finite, non_blocking=True), torch.cuda.Event()
            copied.record(torch.cuda.current_stream(loss.device))
        self.waiting.append((step, is_finite, copied))

    def failed(self, wait: bool = False) -> bool:
        """Whether there was one."""
        while len(self.waiting) > (0 if wait else self.lag):
            step, is_finite, copied = self.waiting.popleft()
            if copied is not None:
                copied.synchronize()
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
        state, out = self.method.state_dict(), Path(self.config.out)
        failed = failed or losses.failed(wait=True) or not checkpoint.finite(state)
        diverged, at = distributed.any_rank(failed), distributed.any_rank(losses.step) or self.step
        if distributed.rank() > 0:
            if diverged:
                sys.exit(2)  # the process that writes says why
        elif diverged:
            what = {"step": at, "lr": self.config.optimiser.lr}
            what |= {"seed": self.config.seed, "indices": batch_of(self.config, self.images, at)}
            raise UsageError(checkpoint.write_diverged(out, what))
        else:
            content = {"model": state, "optimizer": self.optimizer.state_dict(), "step": self.step}
            checkpoint.save_step(out, content, self.config.runtime.keep)


def begin(config: Config, images: int, device: torch.device) -> Run:
    """The run at its first step, or as its newest checkpoint has it."""
    torch.manual_seed(config.seed)
    method = config.method.make(config, images)
    state = checkpoint.newest(Path(config.out))
    if state is None and config.init is not None:
        distributed.say(take_weights(init_weights(config), method))
    method.to(device, memory_format=torch.channels_last)
    spread_batch_norm(method, config.network.splits, device)
    run = Run(config, images, method, method, make_optimizer(config.optimiser, method))
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
        with warnings.catch_warnings(action="ignore"):  # the argument's successor is not there yet
            run.model = DistributedDataParallel(method, devices, broadcast_buffers=False)
    return run


def init_weights(config: Config) -> Weights:
    """The weights that --init names. UsageError where they are another backbone's."""
    wanted = config.network
    weights = load_weights(config.init, wanted.stem)
    width = wanted.width if wanted.network == "resnet10" else weights.width
    theirs = weights.network, weights.stem, weights.width
    if theirs != (wanted.network, wanted.stem, width):
        kinds = "a {} of stem {} and width {}"
        raise UsageError(
            f"--init {weights.origin}: {kinds.format(*theirs)}, and the run's backbone is "
            f"{kinds.format(wanted.network, wanted.stem, width)}; see --network"
        )
    return weights


def take_weights(weights: Weights, method: nn.Module) -> str:
    """Give a method's encoder, and its slow copy, these weights; its head's where they fit. What
    was taken, in words."""
    encoder = method.encoder
    own = encoder.state_dict()
    heads = {key: value for key, value in own.items() if key.startswith("fc.")}
    try:
        head = fitting({f"fc.{key}": value for key, value in weights.fc.items()}, heads, "head")
    except UsageError:
        head = {}
    taken = weights.state | head
    encoder.load_state_dict(own | taken)
    if slow := getattr(method, "slow", None):
        slow.load_state_dict(encoder.state_dict())
    said = "its projection head too" if head else "the projection head begins anew"
    return f"--init {weights.origin}: {len(taken)} of {len(own)} tensors taken, {said}"
