"""Random crops of labelled images and the order that a classifier sees them in: by (seed, epoch,
index) alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

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

    def factor(self, step: int, steps_per_epoch: int) -> float:
        """What the rates are multiplied by at a step."""
        if self.decay == "cosine":
            return 0.5 * (1 + math.cos(math.pi * step / (steps_per_epoch * self.epochs)))
        epoch = step // steps_per_epoch
        return 0.1 ** ((10 * epoch >= 6 * self.epochs) + (10 * epoch >= 8 * self.epochs))

    def check(self) -> None:
        if min(self.epochs, self.batch) < 1:
            raise UsageError(f"--epochs {self.epochs}, --batch {self.batch}: must be at least 1")
        if min(self.lr, self.backbone_lr, self.weight_decay) < 0:
            raise UsageError("learning rates and weight decay must not be negative")


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


class Order(Sampler):
    """Each step's items of this process, from step `start` on; an epoch's last, smaller batch is
    kept."""

    def __init__(self, count: int, schedule: Schedule, start: int):
        self.count, self.schedule, self.start = count, schedule, start
        self.steps = math.ceil(count / schedule.batch)

    def __len__(self) -> int:
        return self.steps * self.schedule.epochs - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first, skip = divmod(self.start, self.steps)
        for epoch in range(first, self.schedule.epochs):
            order = stream(ORDER, self.schedule.seed, epoch).permutation(self.count)
            for step in range(skip, self.steps):
                whole = order[step * self.schedule.batch : (step + 1) * self.schedule.batch]
                yield [
                    (epoch, int(i))
                    for i in np.array_split(whole, distributed.world())[distributed.rank()]
                ]
            skip = 0
