"""A run's log: one JSON object a line, and the same numbers for TensorBoard."""

import json
import math
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from data.io import write_bytes


class Log:
    """Appends to log.jsonl and tensorboard/ of a run folder; lines after step `start` of an
    interrupted run go."""

    def __init__(self, folder: Path, start: int):
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only needed here

        self.path = folder / "log.jsonl"
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        kept = [line for line in lines if _step(line) <= start]
        if len(kept) < len(lines):
            write_bytes(self.path, b"".join(line + b"\n" for line in kept))
        self.file = open(self.path, "a", buffering=1)  # noqa: SIM115 - closed by close()
        self.board = SummaryWriter(folder / "tensorboard", purge_step=start + 1)

    def write(self, step: int, **values: float) -> None:
        try:
            self.file.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            error.filename = str(self.path)
            with suppress(OSError):  # or its end tries once more, and complains
                self.file.close()
            raise
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.file.close()
        self.board.close()


class Clock:
    """Images a second, and the share of time spent waiting for data, since the last reading.

    Args:
        batch: images a step, of all processes.
    """

    def __init__(self, batch: int):
        self.batch, self.steps, self.waited, self.start = batch, 0, 0.0, time.perf_counter()

    def read(self, waited: float) -> dict[str, float]:
        """Numbers of the steps since; `waited` seconds of all so far went by without data."""
        now = time.perf_counter()
        seconds = now - self.start
        speed = self.batch * self.steps / seconds
        waiting = min(1.0, (waited - self.waited) / seconds)
        self.steps, self.waited, self.start = 0, waited, now
        return {"images_per_second": speed, "waiting": waiting}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done within is no training: its time does not count."""
        began = time.perf_counter()
        yield
        self.start += time.perf_counter() - began


def memory_gb(device: torch.device) -> float:
    """The most memory held so far, in GB: the GPU's, or this process's where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _step(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # a line cut by a kill, or damaged
        return math.inf
