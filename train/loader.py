"""Batches of views, in an order that depends on (seed, epoch) only, from any step on."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from data.cli import UsageError
from data.sources.images import ImageError, decode
from data.sources.opencv import silence
from train.config import Config
from train.dataset import TrainingSet
from train.distributed import rank, world
from train.parameters import PARAMETERS
from train.streams import ORDER, stream
from train.views import NEGATIVE, Sample, Views
from train.workers import Loader, fit_workers

TRIES = 100  # broken images in a row before the run gives up


class RawBatch(TypedDict):
    """What a worker hands over, on the CPU.

    Keys:
        views: (V, B, s, s, 3) uint8; the third is swap's extra negative.
        parameters: (V, B, PARAMETERS) float32, see train/parameters.py.
        index: (B,) int64, places in the run's list of the images that were read.
        replaced: how many of them stand in for one that cannot be decoded.
    """

    views: Tensor
    parameters: Tensor
    index: Tensor
    replaced: int


@dataclass(frozen=True)
class Pairs(Dataset):
    """Views of a run's images. Items are asked for by (epoch, index), a batch at a time.

    An image that cannot be decoded gives its place to the next one in the list, so that no run
    stops on it.
    """

    config: Config
    data: TrainingSet

    @property
    def pictures(self) -> int:
        """V, views of an image, and swap's extra negative. The first is the same whether a second
        is made or not."""
        swap = self.config.paste.background == "swap"
        return NEGATIVE + 1 if swap else self.config.method.VIEWS

    def __getitems__(self, items: list[tuple[int, int]]) -> RawBatch:
        make, masks = Views(self.config, self.data.donors), self.data.masks
        size = self.config.views.size
        views = np.empty((self.pictures, len(items), size, size, 3), np.uint8)
        parameters = np.empty((self.pictures, len(items), PARAMETERS), np.float32)
        rows = np.empty(len(items), np.int64)
        draws = [make.draw(*item, parameters[:, i]) for i, item in enumerate(items)]
        with silence():  # once a batch: turning standard error away takes six system calls
            for i, (_, index) in enumerate(items):
                image, row = self._image(index)
                mask = None if masks is None else masks[row]
                make(Sample(image, mask, row), draws[i], views[:, i], parameters[:, i])
                rows[i] = row
        return {
            "views": torch.from_numpy(views),
            "parameters": torch.from_numpy(parameters),
            "index": torch.from_numpy(rows),
            "replaced": int((rows != [index for _, index in items]).sum()),
        }

    def _image(self, index: int) -> tuple[np.ndarray, int]:
        """An image that can be decoded, and its place in the list."""
        images = self.data.images
        for offset in range(TRIES):
            row = (index + offset) % len(images)
            try:
                return decode(images.read(row)), row
            except ImageError:
                continue
        first = os.fsdecode(images.paths[index])
        raise UsageError(f"{first}: {TRIES} images in a row from it on cannot be decoded")


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


def make_order(config: Config, images: int, start: int) -> Order:
    """This process's part of all batches of the run from global step `start` on."""
    optimiser = config.optimiser
    steps = images, optimiser.batch, optimiser.epochs, config.seed, start
    return Order(*steps, rank(), world())


def batch_of(config: Config, images: int, step: int) -> list[int]:
    """The images of a step from 1 on, places in the run's list, of all processes."""
    order = replace(make_order(config, images, step - 1), rank=0, world=1)
    return [index for _, index in next(iter(order))]


def make_loader(config: Config, data: TrainingSet, start: int, device: torch.device) -> Loader:
    """A loader of those batches; one pass of it is the whole run.

    Raises:
        UsageError: no batch fits into the shared memory.
    """
    pairs = Pairs(config, data)
    order = make_order(config, len(data.images), start)
    share = config.optimiser.batch // world()
    size = share * pairs.pictures * 3 * config.views.size**2
    workers, ahead = fit_workers(size, config.runtime.workers)
    return Loader(pairs, order, workers, device.type == "cuda", ahead)
