"""What every loader of training and evaluation tells its workers, and its collate function."""

from __future__ import annotations

from typing import TypeVar

import cv2
import torch

from data import stopping

Batch = TypeVar("Batch")


def start_worker(_: int) -> None:
    """A DataLoader's worker_init_fn: one thread, ignores the signals, ends with its parent."""
    stopping.start_worker()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def identity_collate(batch: Batch) -> Batch:
    """A DataLoader's collate_fn: the data set makes whole batches itself."""
    return batch
