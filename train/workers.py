"""What every loader's workers are told, in pretraining and in the evaluations."""

from __future__ import annotations

import signal

import cv2
import torch


def start_worker(_: int) -> None:
    """A DataLoader's worker_init_fn: one thread, and deaf to Ctrl-C, which the main process answers
    after its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def as_is(batch):
    """A DataLoader's collate_fn: the data set makes whole batches itself."""
    return batch
