"""Batches from the loader to the device, one ahead on a GPU; and how long the training waited for them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from train.photometric import photometric


@dataclass(frozen=True)
class Batch:
    """One step's input.

    Attributes:
        views: normalised, (B, 3, s, s) float32 on the device each.
        index: (B,) int64 on the device, places in the run's list.
        negative: (B, 3, s, s) or None.
        parameters: (views, B, PARAMETERS) float32 on the CPU, as drawn.
    """

    views: list[torch.Tensor]
    index: torch.Tensor
    negative: torch.Tensor | None
    parameters: torch.Tensor


class Feed:
    """Hands out batches; on a GPU the next one is copied and coloured on a stream of its own while a step runs."""

    def __init__(self, loader: Iterable[dict], device: torch.device):
        self.batches, self.device = iter(loader), device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.pending: Batch | None = None
        self.waited = 0.0  # seconds, since somebody set it to 0

    def next(self) -> Batch:
        """The next batch; StopIteration after the last."""
        if self.pending is None:
            self.pending = self._fetch()
        batch, self.pending = self.pending, None
        if self.stream is not None:
            here = torch.cuda.current_stream(self.device)
            here.wait_stream(self.stream)
            for tensor in (*batch.views, batch.index, *([] if batch.negative is None else [batch.negative])):
                tensor.record_stream(here)  # or its memory could be given away while the step still reads it
        return batch

    def ahead(self) -> None:
        """Begin with the batch after; called when a step's work has been handed to the GPU. Nothing on a CPU."""
        if self.stream is not None and self.pending is None:
            try:
                self.pending = self._fetch()
            except StopIteration:
                self.pending = None

    def _fetch(self) -> Batch:
        began = time.perf_counter()
        raw = next(self.batches)
        self.waited += time.perf_counter() - began
        if self.stream is None:
            return self._to_device(raw)
        with torch.cuda.stream(self.stream):
            return self._to_device(raw)

    def _to_device(self, raw: dict) -> Batch:
        views = [photometric(*view, self.device) for view in zip(raw["views"], raw["parameters"], strict=True)]
        negative = raw.get("negative")
        if negative is not None:
            negative = photometric(negative, raw["negative_parameters"], self.device)
        return Batch(views, raw["index"].to(self.device, non_blocking=True), negative, raw["parameters"])
