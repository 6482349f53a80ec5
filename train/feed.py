"""Batches from the loader to the device, one ahead on a GPU; and how long the training waited for
them."""

import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from data.cli import UsageError, describe
from train.loader import RawBatch
from train.parameters import COVERAGE, PASTED
from train.photometric import photometric
from train.views import NEGATIVE


@dataclass(frozen=True)
class Batch:
    """One step's input.

    Attributes:
        pictures: normalised, (B, 3, s, s) float32 on the device each: the views, and swap's extra
            negative as a third.
        index: (B,) int64 on the device, places in the run's list.
        parameters: (V, B, PARAMETERS) float32 on the CPU, as drawn.
        counts: (B,) bool on the device, whose negatives count, or None.
    """

    pictures: list[Tensor]
    index: Tensor
    parameters: Tensor
    counts: Tensor | None = None

    @property
    def views(self) -> list[Tensor]:
        """The views that a method takes."""
        return self.pictures[:NEGATIVE]

    @property
    def negative(self) -> Tensor | None:
        """Swap's extra negative."""
        return None if self.counts is None else self.pictures[NEGATIVE]

    @property
    def pasted(self) -> Tensor:
        """(V, B), above 0 where a view was pasted, and a negative counts."""
        return self.parameters[..., PASTED]

    def pasting(self) -> dict[str, float]:
        """The share of views that were pasted, and the foreground's mean share of those."""
        pasted = self.pasted[:NEGATIVE].mean().item()
        coverage = self.parameters[:NEGATIVE, :, COVERAGE].mean().item()
        return {"pasted": pasted, "coverage": coverage / pasted if pasted else 0.0}


class Feed:
    """Hands out batches; on a GPU the next one is copied and coloured on a stream of its own while
    a step runs.

    Attributes:
        waited: seconds so far without data.
        replaced: images so far that stand in for one that cannot be decoded.
        error: why there are no more batches; empty where there are.
    """

    def __init__(self, loader: Iterable[RawBatch], device: torch.device):
        self.batches, self.device = iter(loader), device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.pending: Batch | None = None
        self.waited = 0.0
        self.replaced = 0
        self.error = ""

    def next(self) -> Batch | None:
        """The next batch; None after the last, or where the loader failed."""
        batch, self.pending = self.pending or self._fetch(), None
        if batch is not None and self.stream is not None:
            here = torch.cuda.current_stream(self.device)
            here.wait_stream(self.stream)
            extra = [] if batch.counts is None else [batch.counts]
            for tensor in (*batch.pictures, batch.index, *extra):
                # or its memory could be given away while the step still reads it
                tensor.record_stream(here)
        return batch

    def ahead(self) -> None:
        """Begin with the batch after; called when a step's work has been handed to the GPU. Nothing
        on a CPU."""
        if self.stream is not None:
            self.pending = self._fetch()

    def _fetch(self) -> Batch | None:
        began = time.perf_counter()
        try:
            raw = next(self.batches, None)
        except (UsageError, MemoryError, OSError) as error:
            text = describe(error) if isinstance(error, OSError) else str(error)
            self.error = text or "too little memory"
            return None
        self.waited += time.perf_counter() - began
        if raw is None:
            return None
        self.replaced += raw["replaced"]
        with nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            return self._to_device(raw)

    def _to_device(self, raw: RawBatch) -> Batch:
        parameters = raw["parameters"]
        drawn = zip(raw["views"], parameters, strict=True)
        pictures = [photometric(*view, self.device) for view in drawn]
        index = raw["index"].to(self.device, non_blocking=True)
        if len(pictures) <= NEGATIVE:
            return Batch(pictures, index, parameters)
        counts = parameters[NEGATIVE, :, PASTED] > 0
        return Batch(pictures, index, parameters, counts.to(self.device, non_blocking=True))
