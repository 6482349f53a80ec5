"""Batches from the loader to the device, one ahead on a GPU; and how long the training waited for
them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from train.photometric import photometric
from train.views import PASTED


@dataclass(frozen=True)
class Batch:
    """One step's input.

    Attributes:
        views: normalised, (B, 3, s, s) float32 on the device each.
        index: (B,) int64 on the device, places in the run's list.
        negative: (B, 3, s, s) or None.
        counts: (B,) bool on the device, whose negatives count, or None.
        parameters: (views, B, PARAMETERS) float32 on the CPU, as drawn.
    """

    views: list[torch.Tensor]
    index: torch.Tensor
    negative: torch.Tensor | None
    parameters: torch.Tensor
    counts: torch.Tensor | None = None

    def shown(self) -> tuple[list[torch.Tensor], torch.Tensor]:
        """What train/preview.py shows: the views, and swap's negatives below them; and what is
        pasted."""
        pasted = self.parameters[..., PASTED]
        if self.negative is None:
            return self.views, pasted
        return [*self.views, self.negative], torch.cat([pasted, self.counts.cpu()[None].to(pasted)])


class Feed:
    """Hands out batches; on a GPU the next one is copied and coloured on a stream of its own while
    a step runs."""

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
            extra = [] if batch.negative is None else [batch.negative, batch.counts]
            for tensor in (*batch.views, batch.index, *extra):
                tensor.record_stream(
                    here
                )  # or its memory could be given away while the step still reads it
        return batch

    def ahead(self) -> None:
        """Begin with the batch after; called when a step's work has been handed to the GPU. Nothing
        on a CPU."""
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
        views = [
            photometric(*view, self.device)
            for view in zip(raw["views"], raw["parameters"], strict=True)
        ]
        index, negative, counts = raw["index"].to(self.device, non_blocking=True), None, None
        if "negative" in raw:
            negative = photometric(raw["negative"], raw["negative_parameters"], self.device)
            counts = raw["counts"].to(self.device, non_blocking=True)
        return Batch(views, index, negative, raw["parameters"], counts)
