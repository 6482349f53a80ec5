"""Features of a frozen network, a batch at a time: for the online kNN and for every evaluation."""

import hashlib
import os
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, Dataset, SequentialSampler

from data.cli import UsageError
from data.sources import labelled
from data.sources.images import ImageError
from train.photometric import normalise, to_float
from train.workers import AHEAD, Loader, fit_workers

FLUSH = 16  # batches between two copies from the device: it never waits for the host in between


class BadImage(UsageError):
    """An image that cannot be decoded."""


class Labelled(labelled.Labelled, Dataset):
    """data.sources.labelled.Labelled for a loader of whole batches; an image that cannot be decoded
    is one clear line."""

    def read(self, i: int) -> np.ndarray:
        """Image i, (H, W, 3) uint8. BadImage, with its name, where it cannot be decoded."""
        try:
            return super().read(i)
        except ImageError as error:
            name = os.path.join(self.root, os.fsdecode(self.paths[i]))
            raise BadImage(f"{name}: {error}; remove or repair that image") from None

    def __getitems__(self, rows: list[int]) -> Tensor:
        """(B, s, s, 3) uint8: a batch in one piece, which a worker hands over without another
        copy."""
        batch = np.empty((len(rows), self.size, self.size, 3), np.uint8)
        for place, row in enumerate(rows):
            batch[place] = self[row]
        return torch.from_numpy(batch)

    def digest(self, times: bool = False) -> str:
        """16 hex digits of the list of images, their sizes and, where `times`, when they were last
        changed, which a copy of the data may not keep."""
        status = np.ascontiguousarray(self.images.stat()[:, : 1 + times])
        content = b"\n".join(self.paths.tolist()) + status.tobytes()
        return hashlib.blake2b(content, digest_size=8).hexdigest()


def batches(
    images: Dataset,
    workers: int | None,
    device: torch.device,
    batch: int | None = None,
    order: Iterable[list] | None = None,
) -> Loader:
    """A loader of whole batches, decoded ahead by `workers` processes.

    Args:
        images: with `size`, the side of its crops, or their longest.
        workers: None: see fit_workers.
        batch: images in order, so many at a time; or
        order: a sampler of lists of items, which images.__getitems__ takes.
    """
    if order is None:
        order = BatchSampler(SequentialSampler(images), batch, drop_last=False)
    ahead = AHEAD
    if workers is None:
        most = max(1, len(next(iter(order), [])))
        workers, ahead = fit_workers(most * 3 * images.size**2, None)
    return Loader(images, order, workers, device.type == "cuda", ahead)


def to_input(crops: Tensor, device: torch.device) -> Tensor:
    """(B, s, s, 3) uint8 to (B, 3, s, s) float32 on `device`, normalised, channels last; in place,
    so in one buffer."""
    return normalise(to_float(crops.to(device, non_blocking=True)))


def forward(model: nn.Module, crops: Tensor, device: torch.device) -> Tensor:
    """(B, D) float32 features of (B, s, s, 3) uint8 on the model's device, in bf16 on a GPU."""
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        return model(to_input(crops, device)).float()


def features(
    model: nn.Module, loader: Iterable[Tensor], device: torch.device
) -> Iterator[np.ndarray]:
    """The features of all of a loader's images in order, (n, D) float32 of up to FLUSH batches at
    a time."""
    waiting = []
    with torch.inference_mode():
        for crops in loader:
            waiting.append(forward(model, crops, device))
            if len(waiting) == FLUSH:
                yield torch.cat(waiting).cpu().numpy()
                waiting.clear()
        if waiting:
            yield torch.cat(waiting).cpu().numpy()
