"""How a classifier is trained: its rates, and the random crops and their order, by (seed, epoch,
index) alone."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from data.cli import UsageError
from train import distributed
from train.crop import random_box, resize_crop
from train.features import Labelled
from train.streams import ORDER, VIEW, stream

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

    def check(self) -> None:
        if min(self.epochs, self.batch) < 1:
            raise UsageError(f"--epochs {self.epochs}, --batch {self.batch}: must be at least 1")
        if min(self.lr, self.backbone_lr, self.weight_decay) < 0:
            raise UsageError("learning rates and weight decay must not be negative")

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


class RandomCrops(Dataset):
    """Random resized crops and flips of some rows of a labelled folder; items are (epoch, place in
    rows)."""

    def __init__(self, images: Labelled, rows: np.ndarray, seed: int):
        self.images, self.rows, self.seed = images, rows, seed

    def __getitems__(self, items: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, s, s, 3) uint8 and (B,) int64 labels."""
        size = self.images.size
        crops = np.empty((len(items), size, size, 3), np.uint8)
        rows = [int(self.rows[place]) for _, place in items]
        for i, ((epoch, _), row) in enumerate(zip(items, rows, strict=True)):
            image = self.images.read(row)
            rng = stream(VIEW, self.seed, epoch, row)
            flip = rng.random() < 0.5
            crop = resize_crop(image, random_box(rng, image.shape[1], image.shape[0], CROP), size)
            crops[i] = cv2.flip(crop, 1) if flip else crop
        return torch.from_numpy(crops), torch.from_numpy(self.images.labels[rows].astype(np.int64))


class Order:
    """Each step's items of this process, from step `start` on; an epoch's last, smaller batch is
    kept."""

    def __init__(self, count: int, schedule: Schedule, start: int = 0):
        self.count, self.schedule, self.start = count, schedule, start
        self.steps = math.ceil(count / schedule.batch)  # of an epoch

    def __len__(self) -> int:
        return self.steps * self.schedule.epochs - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        batch, processes = self.schedule.batch, distributed.world()
        for step in range(self.start, self.steps * self.schedule.epochs):
            epoch, place = divmod(step, self.steps)
            if place == 0 or step == self.start:
                order = stream(ORDER, self.schedule.seed, epoch).permutation(self.count)
            whole = order[place * batch : (place + 1) * batch]
            part = np.array_split(whole, processes)[distributed.rank()]
            yield [(epoch, i) for i in part.tolist()]
