"""What a run shows: a bar, a JSONL log in the cache's folder, and a summary at the end."""

import contextlib
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from tqdm import tqdm

from data.cache.reader import status_counts

# events that are shown above the bar
MESSAGES = {
    "worker died": "a worker died ({error}; out of memory?): the blocks in flight, from {first} "
    "on, are computed again, each alone",
    "crashed": "crashed: {path} kills the process that works on it; it gets no mask",
}


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        images: of the whole list.
        seconds: the run took.
        statuses: images of the whole cache by status name; where other parts are not done yet, of
            this run's rows.
        computed, copied: rows computed from images, and taken from older shards.
        workers: processes that computed.
        bytes: of the shards that the run wrote.
        lacking: shards that other parts of the cache are still to make.
        empty: usable rows of the whole cache, whose mask has no foreground.
        old_bytes: of shards in the folder that are no longer part of the cache.
    """

    images: int
    seconds: float
    statuses: dict[str, int]
    computed: int = 0
    copied: int = 0
    workers: int = 1
    bytes: int = 0
    lacking: int = 0
    empty: int = 0
    old_bytes: int = 0

    @property
    def complete(self) -> bool:
        return not self.lacking


@dataclass
class Report:
    """Bar and log of one run; a log that cannot be written never stops the run.

    Attributes:
        folder: of the cache.
        part: (I, N) where the run is one of several.
        todo: rows that this run makes.
        statuses: rows so far by name of status.
    """

    folder: Path
    part: tuple[int, int] | None
    todo: int
    statuses: dict[str, int] = field(default_factory=dict)

    def __enter__(self) -> Self:
        suffix = "" if self.part is None else f".part-{self.part[0]}-of-{self.part[1]}"
        self.file = self.folder / f"log{suffix}.jsonl"
        options = {"desc": "masks", "unit": "img", "smoothing": 0.05}
        self.bar = tqdm(total=self.todo, disable=not self.todo, **options)
        return self

    def __exit__(self, kind, error, _) -> None:
        self.bar.close()
        if kind is not None:
            error = f"{kind.__name__}: {error}".rstrip(": ")
            self.event("stopped", error=error, images=sum(self.statuses.values()))

    def event(self, what: str, **values) -> None:
        """One line of the log; what went wrong is also shown above the bar."""
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": what, **values}
        with contextlib.suppress(OSError), open(self.file, "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        if what in MESSAGES:
            self.bar.write(MESSAGES[what].format(**values), file=sys.stderr)

    def rows(self, status: np.ndarray) -> None:
        """Rows are there; `status` (n,) uint8."""
        for name, count in status_counts(status).items():
            self.statuses[name] = self.statuses.get(name, 0) + count
        failed = sum(self.statuses.values()) - self.statuses.get("ok", 0)
        self.bar.set_postfix(failed=failed, refresh=False)
        self.bar.update(len(status))
