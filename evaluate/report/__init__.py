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

from data.cli import UsageError
from data.io import write_text
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


def main(argv: list[str]) -> None:
    args = tyro.cli(Arguments, args=argv, prog="python -m evaluate report", description=__doc__)
    if not args.runs:
        raise UsageError("name at least one run: python -m evaluate report runs/a runs/b")
    if args.masks < 0 or args.pictures < 0:
        raise UsageError(f"--masks {args.masks}, --pictures {args.pictures}: must not be negative")
    runs, notes = collect(args.runs)
    text = page(runs, notes, args.title, args.masks, args.pictures)
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    for note in notes:
        print(f"left out: {' '.join(note.split())}", file=sys.stderr)
    results = sum(len(run.results) for run in runs)
    size = len(text.encode()) / 1e6
    print(f"written: {out} ({results} results of {len(runs)} runs, {size:.1f} MB)")
