"""Linear classification of frozen features, by MoCo's protocol or one of two faster ones.

    python -m evaluate linear --run RUN --data DATA --workers 16           # DATA/train/CLASS/...,
    DATA/val/CLASS/...
    python -m evaluate linear --run RUN --data DATA --sweep                # fast: cached features,
    several rates
    python -m evaluate linear --run RUN --data DATA --protocol optimum     # L-BFGS on standardised
    cached features torchrun --nproc_per_node 8 -m evaluate linear --weights moco_v2_200ep.pth.tar
    --data /data/imagenet --workers 8

MoCo's (main_lincls.py): the backbone frozen in eval mode, new random crops every epoch, SGD at a
rate of 30 without weight decay for 100 epochs, x0.1 after 60 and 80; then the centre crop. The
classifier is kept beside the JSON and is what `in9` takes; the same command continues a stopped
one. The backbone is checked to be bit-identical afterwards.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from data.cli import UsageError
from evaluate.common import Common, describe, over_seeds, parse, percent, publish_result
from evaluate.features import Encoder, Labelled, encoder_of, extract
from evaluate.probes import sgd
from evaluate.probes.schedule import CROP, Schedule
from evaluate.probes.sweep import sweep
from train import distributed

L2, ITERATIONS = 1e-3, 200
LABELS = {
    "linear": "MoCo's protocol",
    "linear-sweep": "fast mode: cached features of one centre crop, rate chosen on "
    "held-out training images; not MoCo's protocol",
    "linear-optimum": "optimum of regularised logistic "
    "regression on standardised cached features; not MoCo's protocol",
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
    seeds: int = 1
    """Repeat with seeds 0, 1, ... and report mean and deviation."""
    l2: float = L2
    """Weight of the squared norm of the classifier (--protocol optimum)."""
    features: str | None = None
    """Folder that keeps cached features (float16) for the next evaluation (--sweep and optimum)."""

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
        x = (torch.from_numpy(features).double() - self.mean) / self.deviation
        return (x @ self.weight.T + self.bias).numpy()

    def accuracy(self, features: np.ndarray, labels: np.ndarray) -> float:
        """Top-1 in percent."""
        return 100 * float((self.scores(features).argmax(1) == labels).mean())


def fit_probe(features: np.ndarray, labels: np.ndarray, classes: int, l2: float = L2) -> Probe:
    """Minimise mean cross-entropy + l2/2 |W|^2 (convex: the result does not depend on a seed or a
    learning rate).

    Args:
        features: (N, D) float32.  labels: (N,) int in 0..classes-1.
    """
    x, y = torch.from_numpy(features).double(), torch.from_numpy(np.asarray(labels, np.int64))
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    x = (x - mean) / deviation
    weight = torch.zeros(classes, x.shape[1], dtype=torch.double, requires_grad=True)
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
        loss = F.cross_entropy(x @ weight.T + bias, y) + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    return Probe(mean, deviation, weight.detach(), bias.detach())


def run(run: str | None = None, data: str = "", **options) -> dict:
    """Accuracy of a linear classifier trained on DATA/train, on DATA/val.

    Args:
        options: those of Arguments. `json_file` decides where the classifier is kept (beside it).

    Returns:
        the protocol's parameters, and `accuracy`: {"top-1", "top-5" (more than five classes),
        "per_class": {name: top-1}} in percent, means over seeds; see evaluate.common.over_seeds.
    """
    args = Arguments(run, data, **options)
    if args.sweep and args.protocol != "moco":
        raise UsageError("give --sweep or --protocol optimum, not both")
    distributed.start(args.device)
    encoder = encoder_of(args)
    if args.sweep or args.protocol == "optimum":
        if distributed.world() > 1:
            raise UsageError(
                "--sweep and --protocol optimum run on one process; leave torchrun out"
            )
        return _cached(args, encoder)
    return _moco(args, encoder)


def _moco(args: Arguments, encoder: Encoder) -> dict:
    train = Labelled(os.path.join(args.data, "train"), encoder.size)
    test = Labelled(os.path.join(args.data, "val"), encoder.size, train.classes)
    schedule = Schedule(args.epochs, args.batch, args.lr, weight_decay=args.weight_decay)

    def one(seed: int) -> dict:
        model = sgd.fit(
            encoder,
            train,
            replace(schedule, seed=seed),
            classifier_file(args, seed),
            workers=args.workers,
        )
        return sgd.evaluate(model, test, workers=args.workers)

    found = over_seeds(one, args.seeds)
    protocol = {
        "name": LABELS["linear"],
        "features": "backbone, pooled, frozen in eval mode",
        "train_crop": f"random, {CROP[0]:g} to {CROP[1]:g} of the area, {encoder.size} px, flips",
        "crop": encoder.crop,
        "solver": "SGD",
        "lr": args.lr,
        "momentum": schedule.momentum,
        "weight_decay": args.weight_decay,
        "epochs": args.epochs,
        "decay": "x0.1 after 60 % and 80 %",
        "batch": args.batch,
        "init": "normal(0, 0.01), bias 0",
        "frozen": "bit-identical afterwards",
        "seeds": args.seeds,
        "train_images": len(train),
        "test_images": len(test),
        "classes": len(train.classes),
    }
    return args.result(protocol, **found)


def _cached(args: Arguments, encoder: Encoder) -> dict:
    train, labels, classes = extract(
        encoder, os.path.join(args.data, "train"), workers=args.workers, keep=args.features
    )
    test, truth, _ = extract(
        encoder,
        os.path.join(args.data, "val"),
        workers=args.workers,
        classes=classes,
        keep=args.features,
    )
    sizes = {"train_images": len(train), "test_images": len(test), "classes": len(classes)}
    if args.sweep:
        schedule = Schedule(args.epochs, args.batch, weight_decay=args.weight_decay)
        schedule.check()
        if not args.sweep_lr or min(args.sweep_lr) <= 0:
            raise UsageError("--sweep-lr needs rates above 0")
        chosen = []

        def one(seed: int) -> dict:
            found = sweep(
                train,
                labels,
                test,
                truth,
                classes,
                args.sweep_lr,
                replace(schedule, seed=seed),
                encoder.device,
            )
            chosen.append(found.pop("lr"))
            return found

        found = over_seeds(one, args.seeds)
        protocol = {
            "name": LABELS["linear-sweep"],
            "features": "backbone, pooled, cached",
            "crop": encoder.crop,
            "solver": "SGD",
            "rates": list(args.sweep_lr),
            "chosen_lr": chosen,
            "momentum": schedule.momentum,
            "weight_decay": args.weight_decay,
            "epochs": args.epochs,
            "decay": "x0.1 after 60 % and 80 %",
            "batch": args.batch,
            "init": "normal(0, 0.01), bias 0",
            "seeds": args.seeds,
            **sizes,
        }
        return args.result(protocol, **found)
    ranked = np.argsort(
        -fit_probe(np.asarray(train, np.float32), labels, len(classes), args.l2).scores(
            np.asarray(test, np.float32)
        ),
        axis=1,
    )
    accuracy = {
        f"top-{n}": 100 * float((ranked[:, :n] == truth[:, None]).any(1).mean())
        for n in (1, 5)
        if n == 1 or n < len(classes)
    }
    accuracy["per_class"] = {
        name: 100 * float((ranked[truth == i, 0] == i).mean())
        for i, name in enumerate(classes)
        if (truth == i).any()
    }
    protocol = {
        "name": LABELS["linear-optimum"],
        "features": "backbone, pooled, standardised",
        "crop": encoder.crop,
        "solver": "L-BFGS",
        "l2": args.l2,
        "seeds": f"{args.seeds}; it draws nothing",
        **sizes,
    }
    return args.result(protocol, **over_seeds(lambda _: accuracy, args.seeds))


def classifier_file(args: Common, seed: int, part: str = "") -> Path:
    """Where a classifier is kept: beside the evaluation's JSON, named after it."""
    path = args.result_file()
    return path.with_name(f"{path.stem}{part}-seed{seed}.pt")


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, "linear", __doc__)
    try:
        result = run(**vars(args))
        if distributed.rank() == 0:
            print(f"linear ({describe(result['protocol'])})")
            for name in ("top-1", "top-5"):
                if name in result["accuracy"]:
                    print(f"  {name} {percent(result, name)}")
            for rate, accuracy in result["accuracy"].get("by_lr", {}).items():
                held = result["accuracy"]["held_out"][rate]
                print(f"  lr {rate:<5} held-out {held:6.2f} %, test {accuracy:6.2f} %")
            if "linear-" in result["evaluation"]:
                print(f"  {result['protocol']['name']}")
            publish_result(result, args)
    finally:
        distributed.stop()
