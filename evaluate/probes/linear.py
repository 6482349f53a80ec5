"""Linear classification of frozen features, by MoCo's protocol or one of two faster ones.

    python -m evaluate linear --run RUN --data DATA --workers 16     # DATA/{train,val}/CLASS/...
    python -m evaluate linear --run RUN --data DATA --sweep         # cached features, several rates
    python -m evaluate linear --run RUN --data DATA --protocol optimum     # cached, L-BFGS
    python -m train.launch --standalone --nproc-per-node 8 -m evaluate linear \\
        --weights FILE --data /data/imagenet --workers 8

MoCo's (main_lincls.py): the backbone frozen in eval mode, new random crops every epoch, SGD at a
rate of 30 without weight decay for 100 epochs, x0.1 after 60 and 80; then the centre crop. The
classifier is kept beside the JSON and is what `in9` takes; the same command continues a stopped
one. The backbone is checked to be bit-identical afterwards. Seeds draw crops, order and the
classifier's first weights; the optimum draws nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F

from data.cli import UsageError, require
from evaluate.common import Common, describe, percent, refuse_unused, repeat
from evaluate.features import (
    Encoder,
    accuracies,
    blocks,
    hits,
    labelled_pair,
    load_encoder,
    sizes,
    train_and_val,
)
from evaluate.probes import sgd
from evaluate.probes.sgd import CROP, Schedule
from evaluate.probes.sweep import sweep
from train import distributed

L2, ITERATIONS = 1e-3, 200
ROWS = 1 << 15  # of features that are float64 at a time: 0.5 GB of a ResNet-50's
NAMES = {
    "linear": "MoCo's protocol",
    "linear-sweep": "fast mode: cached features of one centre crop, rate chosen on held-out "
    "training images; not MoCo's protocol",
    "linear-optimum": "optimum of regularised logistic regression on standardised cached features; "
    "not MoCo's protocol",
}
# options that have no effect in each, and what to call it
UNUSED = {
    "linear": ("sweep_lr l2 features", "in MoCo's protocol"),
    "linear-sweep": ("lr l2", "with --sweep"),
    "linear-optimum": ("sweep_lr lr epochs batch weight_decay", "with --protocol optimum"),
}


@dataclass(frozen=True)
class Arguments(Common):
    """Options of the linear evaluation."""

    protocol: Literal["moco", "optimum"] = "moco"
    """moco: SGD on random crops. optimum: L-BFGS to the optimum on standardised features of one
    centre crop."""
    sweep: bool = False
    """Fast mode: SGD with --sweep-lr's rates at once on cached features of one centre crop, and the
    rate chosen on a tenth of the training images."""
    sweep_lr: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
    """Learning rates of --sweep."""
    lr: float = 30.0
    """Learning rate, for batches of 256."""
    epochs: int = 100
    """Passes over the training images; the rate falls to a tenth after 60 % and 80 % of them."""
    batch: int = 256
    """Images a step, over all processes."""
    weight_decay: float = 0.0
    """Weight decay of SGD (its momentum is 0.9)."""
    l2: float = L2
    """Weight of the squared norm of the classifier (--protocol optimum)."""
    features: str | None = None
    """Folder that keeps cached features (float16) for the next evaluation (--sweep and optimum)."""

    draws: ClassVar[bool] = True

    def check(self) -> None:
        super().check()
        refuse_unused(self, *UNUSED[self.evaluation])

    @property
    def evaluation(self) -> str:
        if self.sweep:
            return "linear-sweep"
        return "linear-optimum" if self.protocol == "optimum" else "linear"


@dataclass(frozen=True)
class Probe:
    """A linear classifier on standardised features: mean, deviation (D,), weight (C, D), bias
    (C,)."""

    mean: torch.Tensor
    deviation: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    def scores(self, features: np.ndarray) -> np.ndarray:
        """(N, C) logits of (N, D) features."""
        parts = [
            ((x - self.mean) / self.deviation) @ self.weight.T + self.bias
            for x in _blocks(features)
        ]
        return torch.cat(parts).numpy()

    def accuracy(self, features: np.ndarray, labels: np.ndarray) -> float:
        """Top-1 in percent."""
        return 100 * float((self.scores(features).argmax(1) == labels).mean())


def fit_probe(features: np.ndarray, labels: np.ndarray, classes: int, l2: float = L2) -> Probe:
    """Minimise mean cross-entropy + l2/2 |W|^2 (convex: the result does not depend on a seed or a
    learning rate), in float64, ROWS at a time.

    Args:
        features: (N, D) floats, in memory or mapped.  labels: (N,) int in 0..classes-1.
    """
    mean, deviation = _moments(features)
    targets = torch.from_numpy(labels).split(ROWS)
    weight = torch.zeros(classes, features.shape[1], dtype=torch.double, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.double, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=ITERATIONS,
        history_size=20,
        tolerance_grad=1e-6,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        solver.zero_grad()
        total = l2 / 2 * weight.square().sum()
        total.backward()
        for x, y in zip(_blocks(features), targets, strict=True):
            scores = ((x - mean) / deviation) @ weight.T + bias
            loss = F.cross_entropy(scores, y, reduction="sum") / len(labels)
            loss.backward()
            total = total.detach() + loss.detach()
        return total

    solver.step(closure)
    return Probe(mean, deviation, weight.detach(), bias.detach())


def _blocks(features: np.ndarray) -> Iterator[torch.Tensor]:
    """(N, D) features in float64, ROWS at a time."""
    return (block.double() for block in blocks(features, ROWS))


def _moments(features: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (divisor N - 1) of each column, with 1e-6 added to the latter."""
    mean = sum(x.sum(0) for x in _blocks(features)) / len(features)
    squares = sum((x - mean).square().sum(0) for x in _blocks(features))
    return mean, (squares / (len(features) - 1)).sqrt() + 1e-6


def evaluate(arguments: Arguments) -> dict:
    """Accuracy of a linear classifier trained on DATA/train, on DATA/val.

    Returns:
        the protocol's parameters, and `accuracy`: {"top-1", "top-5" (more than five classes),
        "per_class": {name: top-1}} in percent, means over seeds; see evaluate.common.repeat.
    """
    kind = arguments.evaluation
    if arguments.sweep and arguments.protocol != "moco":
        raise UsageError("give --sweep or --protocol optimum, not both")
    if kind != "linear" and distributed.world() > 1:
        raise UsageError("--sweep and --protocol optimum run on one process; no train.launch")
    require(arguments, "sweep_lr", l2=0)
    if not arguments.sweep_lr:
        raise UsageError("--sweep-lr needs rates above 0")
    encoder = load_encoder(arguments)
    start = {"linear": _moco, "linear-sweep": _sweep, "linear-optimum": _optimum}[kind]
    details, accuracy = start(arguments, encoder)
    protocol = {"name": NAMES[kind], "crop": encoder.crop, "seeds": arguments.seeds, **details}

    def measure(_: Common, seed: int) -> dict:
        return arguments.result(protocol, accuracy=accuracy(seed))

    return repeat(arguments, measure)


# a protocol: its parameters, and the accuracy of a seed
Protocol = tuple[dict, Callable[[int], dict]]


def _moco(arguments: Arguments, encoder: Encoder) -> Protocol:
    train, test = labelled_pair(arguments, encoder.size)
    schedule = _schedule(arguments)

    def accuracy(seed: int) -> dict:
        seeded, file = replace(schedule, seed=seed), arguments.kept_file(seed)
        return sgd.evaluate(sgd.fit(encoder, train, seeded, file), test)

    details = {
        "features": "backbone, pooled, frozen in eval mode",
        "train_crop": f"random, {CROP[0]:g} to {CROP[1]:g} of the area, {encoder.size} px, flips",
        "lr": arguments.lr,
        "frozen": "bit-identical afterwards",
        **_described(schedule),
        **sizes(train, test, train.classes),
    }
    return details, accuracy


def _sweep(arguments: Arguments, encoder: Encoder) -> Protocol:
    rates, schedule = arguments.sweep_lr, _schedule(arguments)
    features = train_and_val(arguments, encoder)
    chosen = []

    def accuracy(seed: int) -> dict:
        accuracy = sweep(features, rates, replace(schedule, seed=seed), encoder.device)
        chosen.append(accuracy.pop("lr"))
        return accuracy

    details = {
        "features": "backbone, pooled, cached",
        "rates": list(rates),
        "chosen_lr": chosen,
        **_described(schedule),
        **sizes(features.train, features.val, features.classes),
    }
    return details, accuracy


def _optimum(arguments: Arguments, encoder: Encoder) -> Protocol:
    features = train_and_val(arguments, encoder)
    classes = features.classes
    probe = fit_probe(features.train, features.labels, len(classes), arguments.l2)
    right = hits(probe.scores(features.val), features.truth)
    accuracy = accuracies(right, features.truth, classes)
    details = {
        "features": "backbone, pooled, standardised",
        "solver": "L-BFGS",
        "l2": arguments.l2,
        "seeds": f"{arguments.seeds}; it draws nothing",
        **sizes(features.train, features.val, classes),
    }
    return details, lambda _: accuracy


def _schedule(arguments: Arguments) -> Schedule:
    decay = arguments.weight_decay
    return Schedule(arguments.epochs, arguments.batch, arguments.lr, weight_decay=decay)


def _described(schedule: Schedule) -> dict:
    return {
        "solver": "SGD",
        "momentum": schedule.momentum,
        "weight_decay": schedule.weight_decay,
        "epochs": schedule.epochs,
        "decay": "x0.1 after 60 % and 80 %",
        "batch": schedule.batch,
        "init": "normal(0, 0.01), bias 0",
    }


def lines(result: dict) -> list[str]:
    """The result as it is printed."""
    accuracy = result["accuracy"]
    text = [f"linear ({describe(result['protocol'])})"]
    text += [f"  {name} {percent(result, name)}" for name in ("top-1", "top-5") if name in accuracy]
    for rate, value in accuracy.get("by_lr", {}).items():
        held_out = accuracy["held_out"][rate]
        text.append(f"  lr {rate:<5} held-out {held_out:6.2f} %, test {value:6.2f} %")
    if result["evaluation"] != "linear":
        text.append(f"  {result['protocol']['name']}")
    return text
