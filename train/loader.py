"""Batches of two views, in an order that depends on (seed, epoch) only, from any step on."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from data.sources.images import ImageError, Images, decode
from train.backgrounds import Donors
from train.config import Config
from train.masks import Masks
from train.streams import ORDER, stream
from train.views import NEGATIVE, PARAMETERS, PASTED, Views
from train.workers import identity_collate, start_worker

TRIES = 100  # broken images in a row before the run gives up


class Pairs(Dataset):
    """Views of each image, two unless told otherwise. Items are asked for by (epoch, index), a
    batch at a time.

    An image that cannot be decoded gives its place to the next one in the list, so that no run
    stops on it.

    Args:
        images: the run's images, of a folder or a tar.
        masks: each image's mask, or None: the baseline.
        count: V, views of an image (InstDisc needs one). The first is the same whether a second is
            made or not.
        donors: backgrounds; None: grey.
        negatives: swap's extra negative too.
    """

    def __init__(
        self,
        images: Images,
        views: Views,
        masks: Masks | None,
        count: int = 2,
        donors: Donors | None = None,
        negatives: bool = False,
    ):
        self.images, self.views, self.masks, self.count, self.donors = (
            images,
            views,
            masks,
            count,
            donors,
        )
        self.pictures = NEGATIVE + 1 if negatives else count

    def __getitems__(self, items: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """views (V, B, s, s, 3) uint8, parameters (V, B, PARAMETERS) float32 and index (B,) int64;
        with negatives also negative (B, s, s, 3), negative_parameters (B, PARAMETERS) and counts
        (B,) bool, whose negatives count."""
        size = self.views.size
        views = np.empty((self.pictures, len(items), size, size, 3), np.uint8)
        parameters = np.empty((self.pictures, len(items), PARAMETERS), np.float32)
        for i, (epoch, index) in enumerate(items):
            image, found = self._image(index)
            mask = None if self.masks is None else self.masks[found]
            self.views(image, mask, epoch, index, views[:, i], parameters[:, i], self.donors, found)
        views, parameters = torch.from_numpy(views), torch.from_numpy(parameters)
        batch = {
            "views": views[: self.count],
            "parameters": parameters[: self.count],
            "index": torch.tensor([index for _, index in items]),
        }
        if self.pictures > self.count:
            batch |= {
                "negative": views[NEGATIVE],
                "negative_parameters": parameters[NEGATIVE],
                "counts": parameters[NEGATIVE, :, PASTED] > 0,
            }
        return batch

    def _image(self, index: int) -> tuple[np.ndarray, int]:
        for offset in range(TRIES):
            found = (index + offset) % len(self.images)
            try:
                return decode(self.images.read(found)), found
            except ImageError:
                continue
        raise RuntimeError(
            f"{TRIES} images in a row from {os.fsdecode(self.images.paths[index])} on cannot be decoded"
        )


class Order(Sampler):
    """Batches of (epoch, index) from step `start` to the last; the last, smaller batch of an epoch
    is left out.

    Args:
        batch: images a step, over all processes; must divide by `world`.
        rank, world: this process's number and how many there are: it gets a contiguous part of each
            batch, so that the parts of all processes, in order, are the batch of one process.
    """

    def __init__(
        self,
        images: int,
        batch: int,
        epochs: int,
        seed: int,
        start: int,
        rank: int = 0,
        world: int = 1,
    ):
        if batch % world or not 0 <= rank < world:
            raise ValueError(f"a batch of {batch} cannot be shared by process {rank} of {world}")
        self.images, self.batch, self.epochs, self.seed, self.start = (
            images,
            batch,
            epochs,
            seed,
            start,
        )
        self.part = slice(rank * batch // world, (rank + 1) * batch // world)

    def __len__(self) -> int:
        return self.images // self.batch * self.epochs - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_epoch = self.images // self.batch
        first, skip = divmod(self.start, per_epoch)
        for epoch in range(first, self.epochs):
            order = stream(ORDER, self.seed, epoch).permutation(self.images)
            for i in range(skip, per_epoch):
                batch = order[i * self.batch : (i + 1) * self.batch]
                yield [(epoch, int(index)) for index in batch[self.part]]
            skip = 0


def make_loader(
    config: Config,
    images: Images,
    masks: Masks | None,
    start: int,
    pin_memory: bool,
    views: int = 2,
    rank: int = 0,
    world: int = 1,
    donors: Donors | None = None,
) -> DataLoader:
    """A loader of all batches of the run from global step `start` on; one pass of it is the whole
    run.

    Args:
        views: V, how many of each image, see Pairs.
        rank, world: this process's number and how many there are, see Order: batches are
            config.batch // world images.
    """
    pairs = Pairs(
        images,
        Views.of(config),
        masks,
        views,
        donors,
        config.background == "swap" and donors is not None,
    )
    order = Order(len(images), config.batch, config.epochs, config.seed, start, rank, world)
    return DataLoader(
        pairs,
        batch_sampler=order,
        num_workers=config.workers,
        collate_fn=identity_collate,
        worker_init_fn=start_worker,
        pin_memory=pin_memory,
        prefetch_factor=4 if config.workers else None,
    )
