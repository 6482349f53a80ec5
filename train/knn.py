"""Weighted k-nearest-neighbour classification (Wu et al., CVPR 2018, section 3.4), while a run is
under way."""

from __future__ import annotations

import os

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from data.cli import UsageError
from data.sources.images import ImageError
from data.sources.labelled import Labelled
from train.distributed import gather, rank, world
from train.photometric import normalise
from train.workers import start_worker

CHUNK = 1024  # queries at a time: ImageNet's similarity matrix would not fit in memory


def knn_predict(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    k: int,
    temperature: float,
    classes: int,
) -> np.ndarray:
    """The class with the largest sum of exp(cosine / T) over the k nearest training features.

    Args:
        train: (N, D) float32.  labels: (N,) int.  test: (M, D) float32.

    Returns:
        (M,) int64 classes.
    """
    bank, queries = (F.normalize(torch.from_numpy(x), dim=1) for x in (train, test))
    return np.concatenate(
        [
            vote(*(chunk @ bank.T).topk(min(k, len(bank)), dim=1), labels, k, temperature, classes)
            for chunk in queries.split(CHUNK)
        ]
    )


def vote(
    cosine: torch.Tensor,
    row: torch.Tensor,
    labels: np.ndarray,
    k: int,
    temperature: float,
    classes: int,
) -> np.ndarray:
    """The class with the largest sum of exp(cosine / T) over the first k of the nearest: (M,)
    int64.

    Args:
        cosine, row: (M, at least k) cosines, largest first, and rows of the training features.
        labels: (N,) int of the training features.
    """
    targets = torch.from_numpy(np.asarray(labels, np.int64))[row[:, :k]]
    votes = torch.zeros(len(row), classes)
    # relative to the nearest: exp(1 / T) alone is too large for float32 where T is below 0.0113
    votes.scatter_add_(1, targets, ((cosine[:, :k] - cosine[:, :1]) / temperature).exp())
    return votes.argmax(1).numpy()


class OnlineKnn:
    """kNN top-1 of the encoder's backbone on held-out labelled images, every process taking its
    share of them.

    Args:
        folder: with train/CLASS/... (the bank) and val/CLASS/... (the queries).
        size: side of the centre crop, in pixels.  limit: at most so many images of each, evenly
            spaced.

    Raises:
        UsageError: no such folders, or other classes in them.
    """

    def __init__(
        self,
        folder: str,
        size: int,
        k: int,
        temperature: float,
        limit: int,
        workers: int,
        batch: int,
    ):
        self.bank = Labelled(os.path.join(folder, "train"), size)
        self.queries = Labelled(os.path.join(folder, "val"), size, self.bank.classes)
        self.k, self.temperature, self.limit, self.workers, self.batch = (
            k,
            temperature,
            limit,
            workers,
            batch,
        )

    def __call__(self, encoder: nn.Module, device: torch.device) -> float:
        """Top-1 accuracy in 0..1; the same on every process. Leaves the encoder as it was."""
        training = encoder.training
        encoder.eval()
        try:
            (bank, labels), (queries, truth) = (
                self._features(encoder, part, device) for part in (self.bank, self.queries)
            )
        finally:
            encoder.train(training)
        predicted = knn_predict(
            bank, labels, queries, self.k, self.temperature, len(self.bank.classes)
        )
        return float((predicted == truth).mean())

    def loader(self, images: Labelled, rows: np.ndarray) -> DataLoader:
        """Of some of the images: (B, s, s, 3) uint8 each."""
        return DataLoader(
            Subset(images, rows.tolist()),
            self.batch,
            num_workers=self.workers,
            collate_fn=_stack,
            worker_init_fn=start_worker,
        )

    def _features(
        self, encoder: nn.Module, images: Labelled, device: torch.device
    ) -> tuple[np.ndarray, np.ndarray]:
        rows = np.linspace(0, len(images) - 1, min(self.limit, len(images))).round().astype(int)
        share = -(
            -len(rows) // world()
        )  # every process the same number, or gathering would wait for ever
        mine = np.resize(rows, share * world())[rank() * share : (rank() + 1) * share]
        loader = self.loader(images, mine)
        head, encoder.fc = encoder.fc, nn.Identity()
        features = []
        try:
            with (
                torch.inference_mode(),
                torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"),
            ):
                for crops in tqdm(
                    loader, desc="online kNN", unit="batch", leave=False, disable=rank() > 0
                ):
                    scaled = crops.to(device).permute(0, 3, 1, 2).float().div_(255)
                    features.append(encoder(normalise(scaled)).float())
        except ImageError as error:
            raise UsageError(f"--knn: {error}; remove or repair that image") from error
        finally:
            encoder.fc = head
        whole = gather(torch.cat(features).clone())[: len(rows)]
        return whole.cpu().numpy(), images.labels[rows]


def _stack(crops: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(crops))
