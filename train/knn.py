"""Weighted k-nearest-neighbour classification (Wu et al., CVPR 2018, section 3.4), and its accuracy
while a run is under way."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from data.cli import UsageError
from train.config import Config
from train.distributed import first_text, gather, rank, world
from train.features import Labelled, batches, features

BANK, QUERIES = 32768, 2048  # rows of a block

Points = tuple[np.ndarray, np.ndarray]  # (N, D) features and (N,) labels


def nearest(
    bank: np.ndarray,
    queries: np.ndarray,
    k: int,
    device: str | torch.device = "cpu",
    rows: int = BANK,
    at_once: int = QUERIES,
) -> tuple[Tensor, Tensor]:
    """The k rows of the bank with the largest cosine to each query, largest first.

    A block of the bank and of the queries at a time, so that ImageNet fits in 8 GB.

    Args:
        bank: (N, D) floats, any layout that gives slices (a memory map).  queries: (M, D) floats.
        rows, at_once: of the bank and of the queries in a block.

    Returns:
        cosines (M, min(k, N)) float32, and rows of the bank (M, min(k, N)) int64, on the CPU.
    """
    k = min(k, len(bank))
    scaled = F.normalize(torch.from_numpy(np.asarray(queries, np.float32)), dim=1)
    best = torch.full((len(scaled), k), -torch.inf)
    places = torch.zeros((len(scaled), k), dtype=torch.long)
    blocks = -(-len(bank) // rows) * -(-len(scaled) // at_once)
    bar = tqdm(total=blocks, desc="neighbours", unit="block", leave=False, disable=rank() > 0)
    with torch.inference_mode(), bar:
        for first in range(0, len(bank), rows):
            block = torch.from_numpy(np.asarray(bank[first : first + rows], np.float32)).to(device)
            block = F.normalize(block, dim=1)
            for start in range(0, len(scaled), at_once):
                part = slice(start, start + at_once)
                cosine, row = (scaled[part].to(device) @ block.T).topk(min(k, len(block)), dim=1)
                cosine = torch.cat([best[part], cosine.cpu()], 1)
                row = torch.cat([places[part], row.cpu() + first], 1)
                best[part], chosen = cosine.topk(k, dim=1)
                places[part] = row.gather(1, chosen)
                bar.update()
    return best, places


def vote(
    cosine: Tensor,
    row: Tensor,
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


def knn_top1(
    bank: Points,
    queries: Points,
    k: Sequence[int],
    temperature: float,
    classes: int,
    device: str | torch.device = "cpu",
) -> list[float]:
    """Top-1 in 0..1 of the vote of the nearest, for each number of neighbours."""
    near = nearest(bank[0], queries[0], max(k), device)
    votes = [vote(*near, bank[1], count, temperature, classes) for count in k]
    return [float((predicted == queries[1]).mean()) for predicted in votes]


class OnlineKnn:
    """kNN top-1 of the encoder's backbone on held-out labelled images, every process taking its
    share of them.

    Raises:
        UsageError: no such folders, or other classes in them.
    """

    def __init__(self, config: Config):
        self.config, folder, size = config, config.knn.knn, config.views.size
        self.bank = Labelled(os.path.join(folder, "train"), size)
        self.queries = Labelled(os.path.join(folder, "val"), size, self.bank.classes)

    def __call__(self, encoder: nn.Module, device: torch.device) -> float:
        """Top-1 accuracy in 0..1; the same on every process. Leaves the encoder as it was.

        Raises:
            UsageError: an image that cannot be decoded, in every process.
        """
        with backbone_alone(encoder):
            parts = [self._features(encoder, x, device) for x in (self.bank, self.queries)]
        k, temperature = (self.config.knn.knn_k,), self.config.knn.knn_temperature
        return knn_top1(*parts, k, temperature, len(self.bank.classes), device)[0]

    def _features(self, encoder: nn.Module, images: Labelled, device: torch.device) -> Points:
        count, batch = min(self.config.knn.knn_limit, len(images)), self.config.optimiser.batch
        rows = np.linspace(0, len(images) - 1, count).round().astype(int)
        # every process takes the same number, or gathering would wait for ever
        local = np.resize(rows, -(-count // world()) * world()).reshape(world(), -1)[rank()]
        order = [local[i : i + batch].tolist() for i in range(0, len(local), batch)]
        loader = batches(images, self.config.runtime.workers, device, order=order)
        bar = tqdm(loader, desc="online kNN", unit="batch", leave=False, disable=rank() > 0)
        try:
            part, error = np.concatenate([*features(encoder, bar, device)]), ""
        except UsageError as reason:
            error = str(reason)
        if error := first_text(error):  # or the other processes would wait for this one's part
            raise UsageError(error)
        whole = gather(torch.from_numpy(part).to(device))[: len(rows)]
        return whole.cpu().numpy(), images.labels[rows]


@contextmanager
def backbone_alone(encoder: nn.Module) -> Iterator[None]:
    """Within, the encoder is in eval mode and gives the features before its head `fc`."""
    training, head = encoder.training, encoder.fc
    encoder.eval()
    encoder.fc = nn.Identity()
    try:
        yield
    finally:
        encoder.fc = head
        encoder.train(training)
