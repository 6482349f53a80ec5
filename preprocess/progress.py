"""What a run tells: one bar, a JSONL log in the cache's folder, and a summary at the end."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.cache.shard import STATUS_NAMES


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        images: of the whole list.  computed, copied: rows made from images, and taken from an older
            generation.
        seconds: the run took.  workers: processes that computed.
        statuses: images of the whole cache by status name; where other parts are not done yet, of
            this run's rows.
        bytes: of the shards that the run wrote.
        complete: False where other parts of the cache are still to be computed.
    """

    images: int
    computed: int
    seconds: float
    statuses: dict[str, int]
    copied: int = 0
    workers: int = 1
    bytes: int = 0
    complete: bool = True


@dataclass
class Report:
    """Bar and log of one run; a log that cannot be written never stops the run.

    Args:
        folder: of the cache.  part: (I, N) where the run is one of several.
        images, todo: of the list, and rows that this run makes.
    """

    folder: Path
    part: tuple[int, int] | None
    images: int
    todo: int
    workers: int
    failed: int = 0
    statuses: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> Report:
        self.started = time.perf_counter()
        name = (
            "log.jsonl" if self.part is None else f"log.part-{self.part[0]}-of-{self.part[1]}.jsonl"
        )
        self.file = self.folder / name
        self.bar = tqdm(
            total=self.todo, desc="masks", unit="img", smoothing=0.05, disable=not self.todo
        )
        return self

    def __exit__(self, kind, error, _) -> None:
        self.bar.close()
        if kind is not None:
            self.event(
                "stopped",
                error=f"{kind.__name__}: {error}".rstrip(": "),
                images=sum(self.statuses.values()),
            )

    def event(self, what: str, **values) -> None:
        """One line of the log; what went wrong is also shown above the bar."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": what, **values}
        with contextlib.suppress(OSError), open(self.file, "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        if what == "worker died":
            self.bar.write(
                f"a worker died ({values['error']}; out of memory?): the {values['blocks']} blocks in "
                "flight are computed again, each alone",
                file=sys.stderr,
            )
        elif what == "out of memory":
            self.bar.write(
                f"the device is out of memory: batches of {values['batch']} from here on",
                file=sys.stderr,
            )
        elif what == "crashed":
            self.bar.write(
                f"crashed: {values['path']} kills the process that works on it; it gets no mask",
                file=sys.stderr,
            )

    def rows(self, status: np.ndarray) -> None:
        """Rows are there; `status` (n,) uint8."""
        for code, count in zip(*np.unique(status, return_counts=True), strict=True):
            name = STATUS_NAMES[int(code)]
            self.statuses[name] = self.statuses.get(name, 0) + int(count)
        self.failed += int((status != 0).sum())
        self.bar.set_postfix(failed=self.failed, refresh=False)
        self.bar.update(len(status))

    def end(self, outcome: Outcome) -> None:
        self.event(
            "end",
            images=outcome.images,
            computed=outcome.computed,
            copied=outcome.copied,
            seconds=round(outcome.seconds, 3),
            workers=outcome.workers,
            bytes=outcome.bytes,
            statuses=outcome.statuses,
            complete=outcome.complete,
        )
