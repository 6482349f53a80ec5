"""One page of everything that was measured of some runs: a single HTML file that loads nothing.

    python -m evaluate report runs/moco_v2 runs/moco_v2-rbd --out report.html

(`make report RUNS="..." OUT=...`.) A run is a folder of `python -m train` or of `python -m evaluate
--weights` (runs/evaluate/FILE), or one JSON of an evaluation. The page holds a table an evaluation
(means ± deviations over seeds; runs that differ in their seed alone also as one row), protocols,
curves of log.jsonl, the pictures in the folders, and some masks of the caches that the runs were
trained with.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from data.cli import UsageError, require
from data.io import lock, write_text
from evaluate.common import refuse_output
from evaluate.report.page import page
from evaluate.report.runs import collect


@dataclass(frozen=True)
class Arguments:
    """Options of the report."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders, or JSON files of evaluations."""
    out: str = "report.html"
    """The page."""
    title: str = "Results"
    """Its title."""
    masks: int = 6
    """Masks to show of each cache that the runs were trained with; 0 shows none."""
    pictures: int = 8
    """Pictures (PNG files in the run's folder) to show of each run at most; 0 shows none."""


def evaluate(arguments: Arguments) -> dict:
    """Write the page.

    Returns:
        "out", "results", "runs", "notes" (how many of each), "bytes".

    Raises:
        UsageError: no runs, one that does not exist, or another process that writes the page.
    """
    if not arguments.runs:
        raise UsageError("name at least one run: python -m evaluate report runs/a runs/b")
    require(arguments, masks=0, pictures=0)
    runs, notes = collect(arguments.runs)
    out = Path(arguments.out)
    read = [file for run in runs for file in (run.path, *run.path.glob("*.json*"))]
    refuse_output(out, read)
    out.parent.mkdir(parents=True, exist_ok=True)
    busy = f"{out}: another process is writing it; wait for that, or choose another --out"
    with lock(out.with_name(f".{out.name}.lock"), busy, remove=True):
        text = page(runs, notes, arguments.title, arguments.masks, arguments.pictures)
        write_text(out, text)
    for note in notes:
        print(f"left out: {' '.join(note.split())}", file=sys.stderr)
    return {
        "out": str(out),
        "results": sum(len(run.results) for run in runs),
        "runs": len(runs),
        "notes": len(notes),
        "bytes": len(text.encode()),
    }


def lines(result: dict) -> list[str]:
    """Where the page is, and what it holds."""
    megabytes = result["bytes"] / 1e6
    counts = f"{result['results']} results of {result['runs']} runs, {megabytes:.1f} MB"
    return [f"written: {result['out']} ({counts})"]
