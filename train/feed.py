"""Batches from the loader to the device, one ahead on a GPU; and how long the training waited for
them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from train.loader import RawBatch
from train.parameters import COVERAGE, PASTED
from train.photometric import photometric
from train.workers import LoaderError


@dataclass(frozen=True)
class Batch:
    """One step's input.

    Attributes:
        views: normalised, (B, 3, s, s) float32 on the device each.
        index: (B,) int64 on the device, places in the run's list.
        parameters: (views, B, PARAMETERS) float32 on the CPU, as drawn.
        negative: (B, 3, s, s) or None.
        counts: (B,) bool on the device, whose negatives count, or None.
    """

    views: list[torch.Tensor]
    index: torch.Tensor
    parameters: torch.Tensor
    negative: torch.Tensor | None = None
    counts: torch.Tensor | None = None

    @property
    def pasted(self) -> torch.Tensor:
        """(views, B), above 0 where a view was pasted."""
        return self.parameters[..., PASTED]

    def pasting(self) -> dict[str, float]:
        """The share of views that were pasted, and the foreground's mean share of those."""
        pasted = self.pasted.mean().item()
        coverage = self.parameters[..., COVERAGE].mean().item()
        return {"pasted": pasted, "coverage": coverage / pasted if pasted else 0.0}

    def preview(self) -> tuple[list[torch.Tensor], torch.Tensor]:
        """What train/preview.py shows: the views, and swap's negatives below them; and what is
        pasted."""
        if self.negative is None:
            return self.views, self.pasted
        counts = self.counts.cpu()[None].to(self.pasted)
        return [*self.views, self.negative], torch.cat([self.pasted, counts])


class Feed:
    """Hands out batches; on a GPU the next one is copied and coloured on a stream of its own while
    a step runs.

    Attributes:
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
        if self.pending is None:
            self.pending = self._fetch()
        batch, self.pending = self.pending, None
        if batch is not None and self.stream is not None:
            here = torch.cuda.current_stream(self.device)
            here.wait_stream(self.stream)
            extra = [] if batch.negative is None else [batch.negative, batch.counts]
            for tensor in (*batch.views, batch.index, *extra):
                # or its memory could be given away while the step still reads it
                tensor.record_stream(here)
        return batch

    def read_waited(self) -> float:
        """Seconds without data since the last reading."""
        seconds, self.waited = self.waited, 0.0
        return seconds

    def ahead(self) -> None:
        """Begin with the batch after; called when a step's work has been handed to the GPU. Nothing
        on a CPU."""
        if self.stream is not None and self.pending is None:
            self.pending = self._fetch()

    def _fetch(self) -> Batch | None:
        began = time.perf_counter()
        try:
            raw = next(self.batches, None)
        except LoaderError as error:
            self.error = str(error)
            return None
        self.waited += time.perf_counter() - began
        if raw is None:
            return None
        self.replaced += raw["replaced"]
        if self.stream is None:
            return self._to_device(raw)
        with torch.cuda.stream(self.stream):
            return self._to_device(raw)

    def _to_device(self, raw: RawBatch) -> Batch:
        views = [
            photometric(*view, self.device)
            for view in zip(raw["views"], raw["parameters"], strict=True)
        ]
        index = raw["index"].to(self.device, non_blocking=True)
        if "negative" not in raw:
            return Batch(views, index, raw["parameters"])
        negative = photometric(raw["negative"], raw["negative_parameters"], self.device)
        counts = raw["counts"].to(self.device, non_blocking=True)
        return Batch(views, index, raw["parameters"], negative, counts)
