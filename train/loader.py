"""Batches of two views, in an order that depends on (seed, epoch) only, from any step on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from data.cache import Cache
from data.images import ImageError, Images, decode
from train.config import Config
from train.streams import CONTROL, ORDER, stream
from train.views import PARAMETERS, Views

TRIES = 100  # broken images in a row before the run gives up


class Pairs(Dataset):
    """Views of each image, two unless told otherwise. Items are asked for by (epoch, index), a batch at a time.

    An image that cannot be decoded gives its place to the next one in the list, so that no run stops on it.

    Args:
        images: the run's images, of a folder or a tar.
        cache, rows: the mask cache and each image's row in it ((N,) int64), or None: the baseline.
        count: V, views of an image (InstDisc needs one). The first is the same whether a second is made or not.
    """

    def __init__(self, images: Images, views: Views, cache: Cache | None, rows: np.ndarray | None, count: int = 2):
        self.images, self.views, self.cache, self.rows, self.count = images, views, cache, rows, count

    def __getitems__(self, items: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        """views (V, B, s, s, 3) uint8, parameters (V, B, PARAMETERS) float32 and index (B,) int64."""
        size = self.views.size
        views = np.empty((self.count, len(items), size, size, 3), np.uint8)
        parameters = np.empty((self.count, len(items), PARAMETERS), np.float32)
        for i, (epoch, index) in enumerate(items):
            image, found = self._image(index)
            self.views(image, self._mask(found), epoch, index, views[:, i], parameters[:, i])
        return {"views": torch.from_numpy(views), "parameters": torch.from_numpy(parameters),
                "index": torch.tensor([index for _, index in items])}

    def _image(self, index: int) -> tuple[np.ndarray, int]:
        for offset in range(TRIES):
            found = (index + offset) % len(self.images)
            try:
                return decode(self.images.read(found)), found
            except ImageError:
                continue
        raise RuntimeError(f"{TRIES} images in a row from {os.fsdecode(self.images.paths[index])} on cannot be decoded")

    def _mask(self, index: int) -> np.ndarray | None:
        """None, never pasted, where the mask failed or is empty: a view of nothing but grey teaches nothing."""
        if self.cache is None or self.cache.status[self.rows[index]]:
            return None
        mask = self.cache.mask(self.rows[index])
        return mask if mask.any() else None


class Order(Sampler):
    """Batches of (epoch, index) from step `start` to the last; the last, smaller batch of an epoch is left out.

    Args:
        batch: images a step, over all processes; must divide by `world`.
        rank, world: this process's number and how many there are: it gets a contiguous part of each batch, so that
            the parts of all processes, in order, are the batch of one process.
    """

    def __init__(self, images: int, batch: int, epochs: int, seed: int, start: int, rank: int = 0, world: int = 1):
        if batch % world or not 0 <= rank < world:
            raise ValueError(f"a batch of {batch} cannot be shared by process {rank} of {world}")
        self.images, self.batch, self.epochs, self.seed, self.start = images, batch, epochs, seed, start
        self.part = slice(rank * batch // world, (rank + 1) * batch // world)

    def __len__(self) -> int:
        return self.images // self.batch * self.epochs - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_epoch = self.images // self.batch
        first, skip = divmod(self.start, per_epoch)
        for epoch in range(first, self.epochs):
            order = stream(ORDER, self.seed, epoch).permutation(self.images)
            for i in range(skip, per_epoch):
                batch = order[i * self.batch:(i + 1) * self.batch]
                yield [(epoch, int(index)) for index in batch[self.part]]
            skip = 0


def shuffled_rows(rows: np.ndarray, seed: int) -> np.ndarray:
    """Control: every image gets another image's mask, always the same one, and none its own."""
    order = stream(CONTROL, seed).permutation(len(rows))
    shuffled = np.empty_like(rows)
    shuffled[order] = rows[np.roll(order, 1)]
    return shuffled


def make_loader(config: Config, images: Images, cache: Cache | None, rows: np.ndarray | None, start: int,
                pin_memory: bool, views: int = 2, rank: int = 0, world: int = 1) -> DataLoader:
    """A loader of all batches of the run from global step `start` on; one pass of it is the whole run.

    Args:
        views: V, how many of each image, see Pairs.
        rank, world: this process's number and how many there are, see Order: batches are config.batch // world images.
    """
    pairs = Pairs(images, Views.of(config), cache, rows, views)
    order = Order(len(images), config.batch, config.epochs, config.seed, start, rank, world)
    return DataLoader(pairs, batch_sampler=order, num_workers=config.workers, collate_fn=_as_is,
                      worker_init_fn=_start_worker, pin_memory=pin_memory,
                      prefetch_factor=4 if config.workers else None)


def _as_is(batch: dict) -> dict:
    return batch


def _start_worker(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the training process's to answer, after its step
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
