"""Batches of views, in an order that depends on (seed, epoch) only, from any step on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from data.sources.images import ImageError, Images, decode
from train.config import Config
from train.dataset import TrainingSet
from train.masks import Masks
from train.parameters import PARAMETERS, PASTED
from train.streams import ORDER, stream
from train.views import NEGATIVE, Sample, Views
from train.workers import AHEAD, Loader, WorkerError

TRIES = 100  # broken images in a row before the run gives up


class RawBatch(TypedDict):
    """What a worker hands over, on the CPU.

    Keys:
        views: (V, B, s, s, 3) uint8.  parameters: (V, B, PARAMETERS) float32.
        index: (B,) int64, places in the run's list of the images that were read.
        replaced: how many of them stand in for one that cannot be decoded.
        negative, negative_parameters, counts: swap's extra negative, (B, s, s, 3) uint8, (B,
            PARAMETERS) float32, and (B,) bool, whose negatives count.
    """

    views: torch.Tensor
    parameters: torch.Tensor
    index: torch.Tensor
    replaced: int
    negative: NotRequired[torch.Tensor]
    negative_parameters: NotRequired[torch.Tensor]
    counts: NotRequired[torch.Tensor]


@dataclass(frozen=True)
class Pairs(Dataset):
    """Views of each image. Items are asked for by (epoch, index), a batch at a time.

    An image that cannot be decoded gives its place to the next one in the list, so that no run
    stops on it.

    Attributes:
        masks: each image's mask, or None: the baseline.
        count: V, views of an image (InstDisc needs one). The first is the same whether a second is
            made or not.
        negatives: swap's extra negative too.
    """

    images: Images
    views: Views
    masks: Masks | None = None
    count: int = 2
    negatives: bool = False

    @classmethod
    def of(cls, config: Config, data: TrainingSet) -> Pairs:
        """The views of a run's images."""
        negatives = config.paste.background == "swap" and data.donors is not None
        views = Views.of(config, data.donors)
        return cls(data.images, views, data.masks, config.method.VIEWS, negatives)

    def __getitems__(self, items: list[tuple[int, int]]) -> RawBatch:
        size = self.views.settings.size
        pictures = NEGATIVE + 1 if self.negatives else self.count
        views = np.empty((pictures, len(items), size, size, 3), np.uint8)
        parameters = np.empty((pictures, len(items), PARAMETERS), np.float32)
        rows = np.empty(len(items), np.int64)
        for i, (epoch, index) in enumerate(items):
            image, row = self._image(index)
            mask = None if self.masks is None else self.masks[row]
            self.views(Sample(image, mask, epoch, index, row), views[:, i], parameters[:, i])
            rows[i] = row
        views, parameters = torch.from_numpy(views), torch.from_numpy(parameters)
        batch: RawBatch = {
            "views": views[: self.count],
            "parameters": parameters[: self.count],
            "index": torch.from_numpy(rows),
            "replaced": sum(int(row) != index for row, (_, index) in zip(rows, items, strict=True)),
        }
        if self.negatives:
            batch["negative"] = views[NEGATIVE]
            batch["negative_parameters"] = parameters[NEGATIVE]
            batch["counts"] = parameters[NEGATIVE, :, PASTED] > 0
        return batch

    def _image(self, index: int) -> tuple[np.ndarray, int]:
        """An image that can be decoded, and its place in the list."""
        for offset in range(TRIES):
            row = (index + offset) % len(self.images)
            try:
                return decode(self.images.read(row)), row
            except ImageError:
                continue
        first = os.fsdecode(self.images.paths[index])
        raise WorkerError(f"{first}: {TRIES} images in a row from it on cannot be decoded")


@dataclass(frozen=True)
class Order(Sampler):
    """Batches of (epoch, index) from step `start` to the last; the last, smaller batch of an epoch
    is left out.

    Attributes:
        batch: images a step, over all processes; must divide by `world`.
        rank, world: this process's number and how many there are: it gets a contiguous part of each
            batch, so that the parts of all processes, in order, are the batch of one process.
    """

    images: int
    batch: int
    epochs: int
    seed: int
    start: int
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch % self.world or not 0 <= self.rank < self.world:
            raise ValueError(
                f"a batch of {self.batch} cannot be shared by process {self.rank} of {self.world}"
            )

    def __len__(self) -> int:
        return self.images // self.batch * self.epochs - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        share = self.batch // self.world
        per_epoch = self.images // self.batch
        first, skip = divmod(self.start, per_epoch)
        for epoch in range(first, self.epochs):
            order = stream(ORDER, self.seed, epoch).permutation(self.images)
            for i in range(skip, per_epoch):
                begin = i * self.batch + self.rank * share
                yield [(epoch, int(index)) for index in order[begin : begin + share]]
            skip = 0


def make_loader(
    config: Config,
    data: TrainingSet,
    start: int,
    pin_memory: bool = False,
    rank: int = 0,
    world: int = 1,
    ahead: int = AHEAD,
) -> Loader:
    """A loader of all batches of the run from global step `start` on; one pass of it is the whole
    run.

    Args:
        rank, world: this process's number and how many there are, see Order: batches are
            --batch // world images.
        ahead: batches that each worker prepares ahead.
    """
    optimiser, workers = config.optimiser, config.runtime.workers
    order = Order(
        len(data.images), optimiser.batch, optimiser.epochs, config.seed, start, rank, world
    )
    return Loader(Pairs.of(config, data), order, workers, pin_memory, ahead)


def batch_bytes(config: Config, world: int = 1) -> int:
    """Bytes of a process's batch, as a worker hands it over."""
    pictures = 3 if config.paste.background == "swap" else config.method.VIEWS
    return config.optimiser.batch // world * pictures * 3 * config.views.size**2
