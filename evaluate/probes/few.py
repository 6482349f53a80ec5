"""Few labels: a classifier from 1 % and 10 % of the training labels, on frozen features and
fine-tuned.

    python -m evaluate few --run RUN --data DATA --workers 16              # DATA/train/CLASS/...
    and DATA/val/CLASS/...
    python -m evaluate few --weights FILE --data /data/imagenet --labels-list 1percent.txt
    10percent.txt

The labelled images are as many of every class, drawn by the seed, and written to a list beside the
JSON; the ImageNet lists of SimCLR (imagenet_subsets/1percent.txt, 10percent.txt) are taken by
--labels-list. Linear: MoCo's protocol (`evaluate linear`) on them. Fine-tuned: the whole network,
SGD, random crops, 20 epochs in batches of 256, no weight decay, a rate for the classifier and one
for the rest (1 %: 5 and 0.02, 10 %: 0.2 and 0.01, as SwAV's eval_semisup.py), falling by half a
cosine (SwAV: x0.2 after 12 and 16). BatchNorm is trained, and shared by the GPUs under torchrun.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from data.cli import UsageError
from data.io import write_text
from evaluate.common import Common, describe, over_seeds, parse, percent, publish_result
from evaluate.features import Labelled, encoder_of
from evaluate.probes import sgd
from evaluate.probes.linear import classifier_file
from evaluate.probes.schedule import Schedule
from train import distributed
from train.streams import WEIGHTS, stream

# largest percentage of labels -> (classifier's rate, backbone's rate) of fine-tuning
FINETUNE_LR = {2.0: (5.0, 0.02), 100.0: (0.2, 0.01)}


@dataclass(frozen=True)
class Arguments(Common):
    """Options of the evaluation with few labels."""

    percent: tuple[float, ...] = (1.0, 10.0)
    """Percentages of the training labels to use."""
    labels_list: tuple[str, ...] = ()
    """Text files of training images, one a line, by file name or by path below DATA/train: instead
    of --percent."""
    modes: tuple[Literal["linear", "finetune"], ...] = ("linear", "finetune")
    """linear: frozen features. finetune: the whole network is trained."""
    lr: float = 30.0
    """Learning rate of the linear classifier on frozen features."""
    epochs: int = 100
    """Passes over the labelled images for the linear classifier."""
    finetune_epochs: int = 20
    """Passes over the labelled images for fine-tuning."""
    head_lr: float | None = None
    """Fine-tuning: rate of the classifier (default: 5 for up to 2 % of the labels, else 0.2)."""
    backbone_lr: float | None = None
    """Fine-tuning: rate of the rest of the network (default: 0.02 for up to 2 % of the labels, else
    0.01)."""
    batch: int = 256
    """Images a step, over all processes."""
    weight_decay: float = 0.0
    """Weight decay of SGD (its momentum is 0.9)."""
    seeds: int = 1
    """Repeat with seeds 0, 1, ... (each draws its own labelled images and crops), and report mean
    and deviation."""

    @property
    def evaluation(self) -> str:
        return "few"


def choose(labels: np.ndarray, classes: int, share: float, seed: int) -> np.ndarray:
    """Rows of a share (0..1) of the labels, as many of every class, at least one: sorted (n,)
    int64.

    What does not divide by the classes goes to some of them, one more each; of a class with fewer
    images, all are taken. A smaller share's rows are among a larger one's.
    """
    rng = stream(WEIGHTS, seed, 0, 2)
    each, more = divmod(max(classes, round(share * len(labels))), classes)
    wanted = np.full(classes, each)
    wanted[rng.permutation(classes)[:more]] += 1
    return np.sort(
        np.concatenate(
            [rng.permutation(np.flatnonzero(labels == c))[: wanted[c]] for c in range(classes)]
        )
    )


def listed(file: str, paths: np.ndarray) -> np.ndarray:
    """Rows of the images that a list names, by their path or by their file name alone: sorted (n,)
    int64.

    Raises:
        UsageError: no such file, an empty one, or names that no image or several images have.
    """
    wanted = [line.strip() for line in Path(file).read_bytes().splitlines() if line.strip()]
    if not wanted:
        raise UsageError(f"{file}: names no image")
    rows = {path: row for row, path in enumerate(paths.tolist())}
    names: dict[bytes, int] = {}
    for path, row in list(rows.items()):
        name = path.rsplit(b"/", 1)[-1]
        names[name] = -1 if name in names else row
    found = [rows.get(name, names.get(name)) for name in wanted]
    for problem, message in (
        (None, "is no image of the training folder"),
        (-1, "is the name of several images"),
    ):
        bad = [os.fsdecode(name) for name, row in zip(wanted, found, strict=True) if row == problem]
        if bad:
            raise UsageError(f"{file}: {bad[0]} {message} ({len(bad)} of {len(wanted)} lines)")
    return np.unique(np.array(found, np.int64))


def run(run: str | None = None, data: str = "", **options) -> dict:
    """Accuracy on DATA/val of classifiers trained with few of DATA/train's labels.

    Args:
        options: those of Arguments. `json_file` decides where classifiers and lists are kept (beside
            it).

    Returns:
        the protocol's parameters, and `accuracy`: {"1% linear", "1% finetune", ...: {"top-1",
        "top-5" (more than five classes), "per_class": {name: top-1}}} in percent, means over seeds;
        see evaluate.common.over_seeds.
    """
    args = Arguments(run, data, **options)
    if not args.labels_list and not (args.percent and all(0 < p <= 100 for p in args.percent)):
        raise UsageError(f"--percent {args.percent}: must be above 0 and at most 100")
    if not args.modes:
        raise UsageError("--modes: give linear, finetune or both")
    distributed.start(args.device)
    encoder = encoder_of(args)
    train = Labelled(os.path.join(args.data, "train"), encoder.size)
    test = Labelled(os.path.join(args.data, "val"), encoder.size, train.classes)
    sets = {Path(file).stem: file for file in args.labels_list} or {
        f"{p:g}%": p for p in args.percent
    }
    schedules, counts = {}, {}

    def one(seed: int) -> dict:
        found = {}
        for name, source in sets.items():
            rows = (
                listed(source, train.paths)
                if isinstance(source, str)
                else choose(train.labels, len(train.classes), source / 100, seed)
            )
            counts[name] = len(rows)
            part = f"-{name.replace('%', 'percent')}"
            if distributed.rank() == 0 and not isinstance(source, str):
                file = classifier_file(args, seed, part).with_suffix(".txt")
                file.parent.mkdir(parents=True, exist_ok=True)
                write_text(file, "".join(os.fsdecode(p) + "\n" for p in train.paths[rows].tolist()))
            for mode in args.modes:
                schedule = _schedule(args, mode, 100 * len(rows) / len(train))
                schedules[f"{name} {mode}"] = schedule
                model = sgd.fit(
                    encoder,
                    train,
                    replace(schedule, seed=seed),
                    classifier_file(args, seed, f"{part}-{mode}"),
                    rows,
                    args.workers,
                )
                found[f"{name} {mode}"] = sgd.evaluate(model, test, workers=args.workers)
        return found

    found = over_seeds(one, args.seeds)
    solvers = {
        name: {
            "lr": s.lr,
            "backbone_lr": s.backbone_lr if s.finetune else "frozen",
            "epochs": s.epochs,
            "decay": s.decay,
        }
        for name, s in schedules.items()
    }
    protocol = {
        "labels": {name: counts[name] for name in sets},
        "labels_from": args.labels_list or "drawn by the seed",
        "solver": "SGD",
        "momentum": 0.9,
        "weight_decay": args.weight_decay,
        "batch": args.batch,
        "training": solvers,
        "crop": encoder.crop,
        "seeds": args.seeds,
        "train_images": len(train),
        "test_images": len(test),
        "classes": len(train.classes),
    }
    return args.result(protocol, **found)


def _schedule(args: Arguments, mode: str, percentage: float) -> Schedule:
    if mode == "linear":
        return Schedule(args.epochs, args.batch, args.lr, weight_decay=args.weight_decay)
    head, rest = next(rates for most, rates in FINETUNE_LR.items() if percentage <= most)
    return Schedule(
        args.finetune_epochs,
        args.batch,
        head if args.head_lr is None else args.head_lr,
        rest if args.backbone_lr is None else args.backbone_lr,
        args.weight_decay,
        decay="cosine",
        finetune=True,
    )


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, "few", __doc__)
    try:
        result = run(**vars(args))
        if distributed.rank() == 0:
            print(f"few labels ({describe(result['protocol'])})")
            for name in result["accuracy"]:
                cells = [
                    f"{top} {percent(result, name, top)}"
                    for top in ("top-1", "top-5")
                    if top in result["accuracy"][name]
                ]
                print(f"  {name:<16} " + "   ".join(cells))
            publish_result(result, args)
    finally:
        distributed.stop()
