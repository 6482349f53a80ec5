"""Train a classifier on a backbone by SGD on random crops: a linear one on frozen features, or the
whole network.

Crops and order depend on (seed, epoch, index) only, so the number of workers or processes and any
interruption leave the result as it is; the state is saved every epoch and on Ctrl-C, and the same
command continues.
"""

import copy
import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from data.cli import require
from evaluate.features import Encoder, accuracies
from evaluate.steps import Training, spread
from train import distributed
from train.batch_norm import spread_batch_norm
from train.crop import random_box, resize_crop
from train.features import Labelled, batches, forward
from train.streams import ORDER, VIEW, stream

BATCH = 256  # images of a step in testing
CROP = (0.08, 1.0)  # shares of the image's area, torchvision's default and MoCo's


@dataclass(frozen=True)
class Schedule:
    """How a classifier is trained. The defaults are MoCo's for a linear one (main_lincls.py).

    Attributes:
        finetune: train the whole network instead of the classifier on frozen features.
        lr: of the classifier.  backbone_lr: of the network's other weights, where they are trained.
        decay: "step": x0.1 after 60 % and 80 % of the epochs; "cosine": half a cosine to 0, step by
            step.
    """

    epochs: int = 100
    batch: int = 256
    lr: float = 30.0
    backbone_lr: float = 0.0
    weight_decay: float = 0.0
    momentum: float = 0.9
    decay: Literal["step", "cosine"] = "step"
    finetune: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        require(self, epochs=1, batch=1, lr=0, backbone_lr=0, weight_decay=0)

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """What the rates are multiplied by at a step."""
        if self.decay == "cosine":
            return 0.5 * (1 + math.cos(math.pi * step / (steps_per_epoch * self.epochs)))
        epoch = step // steps_per_epoch
        return 0.1 ** ((10 * epoch >= 6 * self.epochs) + (10 * epoch >= 8 * self.epochs))

    def layer(self, dimensions: int, classes: int) -> nn.Linear:
        """The classifier before its first step."""
        layer = nn.Linear(dimensions, classes)
        first = torch.Generator().manual_seed(self.seed)
        nn.init.normal_(layer.weight, 0, 0.01, generator=first)
        nn.init.zeros_(layer.bias)
        return layer

    def optimizer(self, *modules: nn.Module) -> torch.optim.SGD:
        """SGD, a group a module; the rates are set step by step."""
        groups = [{"params": list(module.parameters())} for module in modules]
        return torch.optim.SGD(groups, 1.0, self.momentum, weight_decay=self.weight_decay)


@dataclass(frozen=True)
class RandomCrops(Dataset):
    """Random resized crops and flips of some rows of a labelled folder; items are (epoch, place in
    rows)."""

    images: Labelled
    rows: np.ndarray
    seed: int

    @property
    def size(self) -> int:
        """Side of a crop, in pixels."""
        return self.images.size

    def __getitems__(self, items: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, s, s, 3) uint8 and (B,) int64 labels."""
        size = self.size
        crops = np.empty((len(items), size, size, 3), np.uint8)
        rows = self.rows[[place for _, place in items]]
        for out, (epoch, _), row in zip(crops, items, rows.tolist(), strict=True):
            image = self.images.read(row)
            rng = stream(VIEW, self.seed, epoch, row)
            flip = rng.random() < 0.5
            crop = resize_crop(image, random_box(rng, image.shape[1], image.shape[0], CROP), size)
            out[:] = cv2.flip(crop, 1) if flip else crop
        return torch.from_numpy(crops), torch.from_numpy(self.images.labels[rows])


@dataclass(frozen=True)
class Order:
    """Each step's items of this process, from step `start` on; an epoch's last, smaller batch is
    kept."""

    count: int
    schedule: Schedule
    start: int = 0

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return math.ceil(self.count / self.schedule.batch)

    def __len__(self) -> int:
        return self.steps * self.schedule.epochs - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        batch, seed = self.schedule.batch, self.schedule.seed
        for step in range(self.start, self.start + len(self)):
            epoch, place = divmod(step, self.steps)
            if place == 0 or step == self.start:
                order = stream(ORDER, seed, epoch).permutation(self.count)
            whole = order[place * batch : (place + 1) * batch]
            part = np.array_split(whole, distributed.world())[distributed.rank()]
            yield [(epoch, i) for i in part.tolist()]


class Classifier(nn.Module):
    """A backbone, frozen or not, and a linear layer on its pooled features."""

    def __init__(self, encoder: Encoder, classes: int, schedule: Schedule):
        super().__init__()
        self.device, self.workers = encoder.device, encoder.workers
        self.finetune = schedule.finetune
        self.backbone = copy.deepcopy(encoder.model) if self.finetune else encoder.model
        self.backbone.requires_grad_(self.finetune).eval()
        self.fc = schedule.layer(encoder.dimensions, classes).to(self.device)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """(B, C) logits of (B, s, s, 3) uint8; in bf16 on a GPU up to fc, which learns at rates
        like 30. B may be 0: a process may have no part in a small last batch."""
        with torch.set_grad_enabled(self.finetune and torch.is_grad_enabled()):
            features = forward(self.backbone, crops, self.device)
        return self.fc(features)


def fit(
    encoder: Encoder,
    images: Labelled,
    schedule: Schedule,
    file: Path,
    rows: np.ndarray | None = None,
) -> Classifier:
    """Train a classifier, or continue what `file` holds; a finished file is only loaded.

    Args:
        file: the checkpoint; when finished, the classifier (fc.weight (C, D), fc.bias (C,)).
        rows: of the images to train on (n,), or all.

    Raises:
        UsageError: bad options, an image that cannot be decoded, a file of another training, or a
            loss that diverges.
        SystemExit: stopped by a signal, and saved.
    """
    rows = np.arange(len(images)) if rows is None else rows
    before = fingerprint(encoder.model)
    model = Classifier(encoder, len(images.classes), schedule)
    trained = [model.fc, model.backbone] if schedule.finetune else [model.fc]
    identity = {
        **asdict(schedule),
        "weights": encoder.digest,
        "images": images.digest(),
        "classes": images.classes,
        "labels": hashlib.blake2b(rows.tobytes(), digest_size=8).hexdigest(),
        "size": encoder.size,
    }
    training = Training(
        model if schedule.finetune else model.fc,
        schedule.optimizer(*trained),
        file,
        identity,
        "classifier",
        "lower --head-lr and --backbone-lr" if schedule.finetune else "lower --lr",
    )
    training.restore()
    if not training.finished:
        _train(model, training, schedule, RandomCrops(images, rows, schedule.seed))
        training.save(finished=True)
    if fingerprint(encoder.model) != before:
        raise AssertionError("the frozen backbone changed while the classifier was trained")
    return model.eval()


def _train(model: Classifier, training: Training, schedule: Schedule, crops: RandomCrops) -> None:
    order = Order(len(crops.rows), schedule, training.step)
    if schedule.finetune and distributed.world() > 1:
        model.backbone = spread_batch_norm(model.backbone, 1, model.device)
    spread_model = spread(model, model.device, schedule.finetune)
    model.train(schedule.finetune)

    def loss_of(batch: tuple[torch.Tensor, torch.Tensor], step: int) -> torch.Tensor:
        images, labels = batch
        whole = min(schedule.batch, order.count - step % order.steps * schedule.batch)
        logits = spread_model(images)
        loss = F.cross_entropy(logits, labels.to(logits.device, non_blocking=True), reduction="sum")
        # the mean over processes is then the mean over the global batch, however it is cut
        return loss * (distributed.world() / whole)

    def rates(step: int) -> list[float]:
        factor = schedule.factor(step, order.steps)
        groups = training.optimizer.param_groups
        return [rate * factor for rate in (schedule.lr, schedule.backbone_lr)[: len(groups)]]

    name = f"{'fine-tuning' if schedule.finetune else 'linear'}, seed {schedule.seed}"
    loader, steps = batches(crops, model.workers, model.device, order=order), order.steps
    training.run(loader, loss_of, rates, steps * schedule.epochs, steps, name)


def evaluate(model: Classifier, images: Labelled) -> dict:
    """Accuracy in percent, as evaluate.features.accuracies."""
    rows = np.arange(distributed.rank(), len(images), distributed.world())
    order = [rows[i : i + BATCH].tolist() for i in range(0, len(rows), BATCH)]
    loader = batches(images, model.workers, model.device, order=order)
    best = torch.zeros(len(images), min(5, len(images.classes)), dtype=torch.long)
    with torch.inference_mode():
        bar = tqdm(loader, "testing", len(order), leave=False, disable=distributed.rank() > 0)
        for some, crops in zip(order, bar, strict=True):
            best[some] = model(crops).topk(best.shape[1]).indices.cpu()
    right = distributed.total(best).numpy() == images.labels[:, None]
    return accuracies(right, images.labels, images.classes)


def fingerprint(model: nn.Module) -> str:
    """Of every weight and buffer, bit by bit."""
    digest = hashlib.blake2b(digest_size=16)
    for key, value in model.state_dict().items():
        digest.update(key.encode())
        content = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(content.numpy().tobytes())
    return digest.hexdigest()
