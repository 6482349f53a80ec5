"""Few labels: a classifier from 1 % and 10 % of the training labels, on frozen features and
fine-tuned.

    python -m evaluate few --run RUN --data DATA --workers 16     # DATA/{train,val}/CLASS/...
    python -m train.launch --standalone --nproc-per-node 8 -m evaluate few \\
        --weights FILE --data IMAGENET --labels-list 1percent.txt 10percent.txt --workers 8

The labelled images are as many of every class, drawn by the seed, and written to a list beside the
JSON; the ImageNet lists of SimCLR (imagenet_subsets/1percent.txt, 10percent.txt) are taken by
--labels-list. Linear: MoCo's protocol (`evaluate linear`) on them. Fine-tuned: the whole network,
SGD, random crops, 20 epochs in batches of 256, no weight decay, a rate for the classifier and one
for the rest (1 %: 5 and 0.02, 10 %: 0.2 and 0.01, as SwAV's eval_semisup.py), falling by half a
cosine (SwAV: x0.2 after 12 and 16). BatchNorm is trained, and shared by all processes.
Seeds draw the labelled images, crops, order and the classifier's first weights.
"""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from data.cli import UsageError, require
from data.io import write_text
from data.sources.lists import read_list
from evaluate.common import Common, describe, percent, refuse_unused, repeat
from evaluate.features import labelled_pair, load_encoder, sizes
from evaluate.probes import sgd
from evaluate.probes.sgd import Schedule
from evaluate.probes.sweep import choose
from train import distributed
from train.features import Labelled
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

    evaluation: ClassVar[str] = "few"
    draws: ClassVar[bool] = True

    def inputs(self) -> list[Path]:
        return [*super().inputs(), *map(Path, self.labels_list)]

    def check_labels(self) -> None:
        """UsageError where the labels or the modes cannot be meant."""
        names = [Path(file).stem for file in self.labels_list]
        if len(set(names)) < len(names):
            raise UsageError("--labels-list: two lists of one name, by which results are called")
        if not (names or self.percent) or not all(0 < p <= 100 for p in self.percent):
            raise UsageError(f"--percent {self.percent}: must be above 0 and at most 100")
        if not self.modes:
            raise UsageError("--modes: give linear, finetune or both")
        if names:
            refuse_unused(self, "percent", "with --labels-list")
        require(self, finetune_epochs=1, head_lr=0, backbone_lr=0)
        for mode in self.modes:
            schedule_for(self, mode, 100, 0)  # bad rates are refused before a list is written


def balanced(labels: np.ndarray, classes: int, share: float, seed: int) -> np.ndarray:
    """Rows of a share (0..1) of the labels, as many of every class, at least one: sorted (n,)
    int64.

    What does not divide by the classes goes to some of them, one more each; of a class with fewer
    images, all are taken. A smaller share's rows are among a larger one's.
    """
    rng = stream(WEIGHTS, seed, 0, 2)
    each, more = divmod(max(classes, round(share * len(labels))), classes)
    counts = np.full(classes, each)
    counts[rng.permutation(classes)[:more]] += 1
    return choose(labels, counts, rng)


def listed(file: str, paths: np.ndarray) -> np.ndarray:
    """Rows of the images that a list names, by their path or by their file name alone: sorted (n,)
    int64.

    Raises:
        UsageError: no such file, an empty one, or names that no image or several images have.
    """
    names = read_list(file, option="--labels-list").tolist()
    own = [path.rsplit(b"/", 1)[-1] for path in paths.tolist()]
    rows = {name: row for row, name in enumerate([*own, *paths.tolist()])}
    images = Counter(own) | Counter(paths.tolist())
    wrong = [name for name in names if images[name] != 1]
    if wrong:
        raise UsageError(
            f"{file}: {os.fsdecode(wrong[0])} is the name of {images[wrong[0]]} images of the "
            f"training folder ({len(wrong)} of {len(names)} lines)"
        )
    return np.unique([rows[name] % len(paths) for name in names])


def evaluate(arguments: Arguments) -> dict:
    """Accuracy on DATA/val of classifiers trained with few of DATA/train's labels.

    Returns:
        the protocol's parameters, and `accuracy`: {"1% linear", "1% finetune", ...: {"top-1",
        "top-5" (more than five classes), "per_class": {name: top-1}}} in percent, means over seeds;
        see evaluate.common.repeat.
    """
    arguments.check_labels()
    encoder = load_encoder(arguments)
    train, test = labelled_pair(arguments, encoder.size)
    labels, training = {}, {}
    protocol = {
        "labels": labels,
        "labels_from": arguments.labels_list or "drawn by the seed",
        "solver": "SGD",
        "momentum": 0.9,
        "weight_decay": arguments.weight_decay,
        "batch": arguments.batch,
        "training": training,
        "crop": encoder.crop,
        "seeds": arguments.seeds,
        **sizes(train, test, train.classes),
    }

    def measure(_: Common, seed: int) -> dict:
        accuracy = {}
        for name, rows in _labelled_rows(arguments, train, seed).items():
            labels[name] = len(rows)
            for mode in arguments.modes:
                schedule = schedule_for(arguments, mode, 100 * len(rows) / len(train), seed)
                training[f"{name} {mode}"] = {
                    "lr": schedule.lr,
                    "backbone_lr": schedule.backbone_lr if schedule.finetune else "frozen",
                    "epochs": schedule.epochs,
                    "decay": schedule.decay,
                }
                file = arguments.kept_file(seed, f"{_part(name)}-{mode}")
                model = sgd.fit(encoder, train, schedule, file, rows)
                accuracy[f"{name} {mode}"] = sgd.evaluate(model, test)
        return arguments.result(protocol, accuracy=accuracy)

    return repeat(arguments, measure)


def _labelled_rows(arguments: Arguments, train: Labelled, seed: int) -> dict[str, np.ndarray]:
    """Name of a set of labels -> its rows of the training images; drawn ones are written to a
    list."""
    if arguments.labels_list:
        return {Path(file).stem: listed(file, train.paths) for file in arguments.labels_list}
    sets = {}
    for share in arguments.percent:
        name = f"{share:g}%"
        sets[name] = balanced(train.labels, len(train.classes), share / 100, seed)
        if distributed.rank() == 0:
            file = arguments.kept_file(seed, _part(name), ".txt")
            paths = train.paths[sets[name]].tolist()
            write_text(file, "".join(os.fsdecode(path) + "\n" for path in paths))
    return sets


def _part(name: str) -> str:
    return f"-{name.replace('%', 'percent')}"


def schedule_for(arguments: Arguments, mode: str, percentage: float, seed: int) -> Schedule:
    """How a classifier is trained in a mode with a percentage of the labels."""
    shared = {"batch": arguments.batch, "weight_decay": arguments.weight_decay, "seed": seed}
    if mode == "linear":
        return Schedule(arguments.epochs, lr=arguments.lr, **shared)
    rates = next(rates for most, rates in FINETUNE_LR.items() if percentage <= most)
    given = arguments.head_lr, arguments.backbone_lr
    head, rest = (y if x is None else x for x, y in zip(given, rates, strict=True))
    epochs, options = arguments.finetune_epochs, {"decay": "cosine", "finetune": True}
    return Schedule(epochs, lr=head, backbone_lr=rest, **options, **shared)


def lines(result: dict) -> list[str]:
    """The result as it is printed."""
    text = [f"few labels ({describe(result['protocol'])})"]
    for name, accuracy in result["accuracy"].items():
        tops = [top for top in ("top-1", "top-5") if top in accuracy]
        cells = "   ".join(f"{top} {percent(result, name, top)}" for top in tops)
        text.append(f"  {name:<16} {cells}")
    return text
