"""A run's log: one JSON object a line, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path

from data.files import write_text


class Log:
    """Appends to log.jsonl and tensorboard/ of a run folder; lines after step `start` of an interrupted run go."""

    def __init__(self, folder: Path, start: int):
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only needed here

        self.path = folder / "log.jsonl"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in lines if _step(line) <= start]
        if len(kept) < len(lines):
            write_text(self.path, "".join(line + "\n" for line in kept))
        self.file = open(self.path, "a", buffering=1)  # noqa: SIM115 - closed by close()
        self.board = SummaryWriter(folder / "tensorboard", purge_step=start + 1)

    def write(self, step: int, **values: float) -> None:
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.file.close()
        self.board.close()


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):  # a line cut by a kill
        return float("inf")
