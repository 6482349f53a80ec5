"""The one loop: batches to weights, rounds to new labels. A run stopped and continued gives the same weights."""

from __future__ import annotations

import copy
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from preprocess.selftaught import augment, checkpoint, cut, parts
from preprocess.selftaught.losses import consistency, label_loss
from preprocess.selftaught.network import Net, follow, normalised
from preprocess.selftaught.parts import Samples
from preprocess.selftaught.refine import predict, refine, stacked

HELD_OUT = 20  # every so many-th image is never trained on: how well network and labels agree is told on these
AVERAGE = 0.998  # momentum of the moving average of the weights
WARM_UP = 200  # steps
CONSISTENCY = 0.5  # weight of the agreement across scales, reached over the first round


@dataclass(frozen=True)
class Schedule:
    """What makes two runs the same run, beside the images.

    Attributes:
        steps: in all.  rounds: of labels; after each but the last the network makes its own.
        batch: images a step.  sides: of the pictures in training, px, one drawn a step; multiples of 32, the largest
            of which is the network's working side.
        side: of the stored pictures, labels and maps, px.  lr: largest learning rate of AdamW.
    """

    steps: int = 9000
    rounds: int = 3
    batch: int = 16
    side: int = 128
    sides: tuple[int, ...] = (96, 128, 128)
    lr: float = 2e-3
    seed: int = 0

    def begins(self, number: int) -> int:
        """The step at which round `number` (from 0) begins."""
        return self.steps * number // self.rounds


class State:
    """Network, its moving average, optimiser, steps done and seconds spent."""

    def __init__(self, schedule: Schedule):
        torch.manual_seed(schedule.seed)
        self.network = Net().to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=schedule.lr)
        self.step, self.seconds = 0, 0.0

    def state_dict(self) -> dict:
        return {"step": self.step, "seconds": self.seconds, "network": self.network.state_dict(),
                "average": self.average.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load(self, found: dict) -> None:
        self.network.load_state_dict(found["network"])
        self.average.load_state_dict(found["average"])
        self.optimiser.load_state_dict(found["optimiser"])
        self.step, self.seconds = found["step"], found["seconds"]


def train(samples: Samples, schedule: Schedule, folder: Path, workers: int = 1, checkpoint_every: int = 200,
          stop_after: int | None = None) -> nn.Module:
    """Train on samples with their first labels, or continue; the network whose weights are the moving average.

    Args:
        folder: of the run: checkpoints/, labels/ and log.jsonl.  stop_after: steps after which it stops, for tests.

    Raises:
        KeyboardInterrupt: on SIGINT and SIGTERM, after a checkpoint.  UsageError: a damaged or foreign checkpoint.
    """
    torch.set_num_threads(1)  # sums in the same order on any machine of a kind
    state = State(schedule)
    checkpoint.resume(folder, state)
    held = np.arange(len(samples)) % HELD_OUT == HELD_OUT - 1
    rows, held = np.flatnonzero(~held), np.flatnonzero(held)
    last = schedule.steps if stop_after is None else min(stop_after, schedule.steps)
    losses: list[float] = []
    began = time.perf_counter() - state.seconds
    with _stopping() as stop, tqdm(total=schedule.steps, initial=state.step, desc="selftaught", unit="step",
                                   disable=None) as bar:
        for number in range(schedule.rounds):
            if number and state.step >= schedule.begins(number):
                made_by = partial(refine, state.average, samples, schedule.sides, workers)
                samples = parts.later(folder / "labels", f"round{number}", samples, made_by)
            while schedule.begins(number) <= state.step < min(schedule.begins(number + 1), last):
                with stop.deferred():
                    losses.append(_step(state, samples, rows, schedule))
                    state.seconds = time.perf_counter() - began
                    ended = state.step == schedule.begins(number + 1)
                    if stop.asked or ended or state.step == last or state.step % checkpoint_every == 0:
                        entry = {"step": state.step, "round": number, "loss": round(float(np.mean(losses)), 5),
                                 "seconds": round(state.seconds, 1)}
                        losses.clear()
                        if ended:
                            entry |= agreements(state.average, samples, held, max(schedule.sides))
                        checkpoint.save(folder, state.state_dict())
                        checkpoint.log(folder, entry)
                        bar.set_postfix(loss=f"{entry['loss']:.3f}", round=number)
                bar.update()
                if stop.asked:
                    raise KeyboardInterrupt
            if state.step >= last:
                break
    return state.average.eval()


def _step(state: State, samples: Samples, rows: np.ndarray, schedule: Schedule) -> float:
    batch = augment.batch(samples, rows, schedule.batch, schedule.sides, schedule.seed, state.step)
    pixels, keep = torch.from_numpy(batch.pixels), torch.from_numpy(batch.keep)
    label, trust = torch.from_numpy(batch.label).float().div_(255), torch.from_numpy(batch.trust)
    state.network.train()
    logits = state.network(normalised(pixels, keep))
    loss = label_loss(logits, label, trust)
    wanted = _teacher(state.average, pixels[:max(1, schedule.batch // 4)], schedule, state.step)
    ramp = CONSISTENCY * min(1.0, state.step / max(1, schedule.begins(1)))
    loss = loss + ramp * consistency(logits[:len(wanted)], wanted)
    for group in state.optimiser.param_groups:
        group["lr"] = rate(schedule, state.step)
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    state.optimiser.step()
    state.step += 1
    follow(state.average, state.network, min(AVERAGE, state.step / (state.step + 9)))
    return loss.item()


@torch.no_grad()
def _teacher(average: nn.Module, pixels: Tensor, schedule: Schedule, step: int) -> Tensor:
    """The moving average's map of uint8 pixels, all cues given, mirrored, at a side of its own draw."""
    side = int(np.random.default_rng([schedule.seed, 2, step]).choice(schedule.sides))
    x = normalised(pixels).flip(3)
    if side != x.shape[2]:
        x = nn.functional.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
    return torch.sigmoid(average.eval()(x.contiguous(memory_format=torch.channels_last))).flip(2)


def rate(schedule: Schedule, step: int) -> float:
    """Learning rate: a linear warm-up, then half a cosine to 0."""
    warm = min(WARM_UP, schedule.steps // 10)
    if step < warm:
        return schedule.lr * (step + 1) / warm
    return schedule.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, schedule.steps - warm)))


def agreements(network: nn.Module, samples: Samples, held: np.ndarray, side: int, most: int = 512) -> dict[str, float]:
    """How well maps of held-out images, seen at `side`, agree with their labels (soft IoU), with and without cues."""
    if not len(held):
        return {}
    images, cues, labels, _ = samples.take(held[:: -(-len(held) // most)])
    pixels = stacked(images, cues)
    found = {}
    for name, blind in (("held_out_agreement", False), ("held_out_agreement_without_cues", True)):
        maps = predict(network, pixels, side, blind=blind)
        found[name] = round(float(np.mean([cut.agreement(m[None], one)
                                           for m, one in zip(maps, labels, strict=True)])), 4)
    return found


class _Stop:
    """A wish to stop waits where a step is under way, and is an exception elsewhere."""

    def __init__(self):
        self.asked, self._busy = False, False

    def __call__(self, *_) -> None:
        self.asked = True
        if not self._busy:
            raise KeyboardInterrupt

    @contextmanager
    def deferred(self) -> Iterator[None]:
        self._busy = True
        try:
            yield
        finally:
            self._busy = False


@contextmanager
def _stopping() -> Iterator[_Stop]:
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def identity(schedule: Schedule, images: dict) -> dict:
    """JSON-able: what makes two runs the same run."""
    return {"program": "selftaught", "version": 2, **dataclasses.asdict(schedule), "sides": list(schedule.sides),
            "images": images}
