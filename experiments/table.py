"""What the scripts of all tables share: the command line, and running the rows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from tqdm import tqdm

from benchmarks.publish import fill
from data.cli import UsageError
from data.io import write_text
from experiments.challenge import challenge
from experiments.diagnosis import diagnose
from experiments.fidelity import fidelity
from experiments.known import unpack
from experiments.results import gather
from experiments.rows import rows_of
from experiments.runner import prepare, run_row
from experiments.scores import scores
from experiments.settings import Data, Row, choose
from experiments.tables import text


@dataclass(frozen=True)
class Arguments:
    """Options of every table."""

    data: Literal["embedded", "imagenette", "imagenette64"] = "embedded"
    """Images to run on; imagenette64 is the full budget, ResNet-18 at 64 px, for a GPU."""
    seeds: int = 3
    """Seeds 0, 1, ... of every row."""
    rows: tuple[str, ...] = ()
    """Rows to run, by name (default: all)."""
    epochs: int | None = None
    """Passes over the images (default: 14 on the embedded data, 50 on imagenette, 60 on
    imagenette64)."""
    workers: int = 0
    """Processes that decode, a training; several where it runs on a GPU. Does not change the
    numbers."""
    out: str = "runs/experiments"
    """Folder of runs and numbers."""
    known: str | None = None
    """Folder of numbers of earlier runs, on any machine: they count as run, and the new ones are
    added; the repository's own is experiments/measured (default: none, everything is run here)."""
    readme: str = "docs/results.md"
    """File whose block of the table is written, where it has one."""


def main(table: str, description: str) -> None:
    """Run what is missing of a table's rows, seed by seed; numbers to OUT/DATA/TABLE.json, the
    table into README."""
    args = tyro.cli(Arguments, prog=f"python -m experiments.{table}", description=description)
    if args.seeds < 0:
        raise UsageError(
            f"--seeds {args.seeds}: must be at least 0; 0 only writes the table of what there is"
        )
    data, rows = choose(args.data, args.epochs), rows_of(table, args.data)
    unknown = sorted(set(args.rows) - set(rows))
    if unknown:
        raise UsageError(f"--rows {unknown[0]}: {table} on {args.data} has {', '.join(rows)}")
    out = Path(args.out, data.folder)
    worth = unpack(Path(args.known), table, rows, data, out) if args.known else {}
    images = prepare(data, out)
    jobs = [(name, seed) for seed in range(args.seeds) for name in args.rows or rows]
    for name, seed in tqdm(jobs, desc=f"{table} on {args.data}", unit="run"):
        found = run_row(rows[name], data, seed, out, images, args.workers)
        if found:
            tqdm.write(
                f"{name}, seed {seed}: kNN {found['measured']['knn']:.1f}, linear "
                f"{found['measured']['linear']:.1f}"
            )
    write(table, rows, data, out, images, args, worth)


def write(
    table: str,
    rows: dict[str, Row],
    data: Data,
    out: Path,
    images: Path,
    args: Arguments,
    worth: dict[str, dict],
) -> None:
    """Gather what there is, write it as JSON and as the README's table, and print that.

    Args:
        worth: label -> what its masks are worth, as far as it is known; computed anew where the
            masks are here.
    """
    command = f"python -m experiments.{table} --data {args.data}" + (
        f" --epochs {args.epochs}" if args.epochs else ""
    )
    if table == "e1":
        worth = worth | scores(rows, data, out)
    if table == "e5":
        lost = fidelity([row.side for label, row in rows.items() if row.masks != "none"], out)
        worth = {
            label: lost[row.side]
            for label, row in rows.items()
            if row.masks != "none" and row.side in lost
        }
    if table == "e2":
        if data.source:
            challenge(rows, data, out, images, args.workers)
        else:
            diagnose(rows, data, out, images)
    result = gather(table, rows, data, out, command, worth)
    numbers = Path(args.out, args.data)
    for folder in (numbers, *([Path(args.known, args.data)] if args.known else [])):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{table}.json", json.dumps(result, indent=1) + "\n")
    told = text(result)
    print(f"\n{told}\n\nnumbers: {numbers / f'{table}.json'}")
    if not fill(args.readme, f"{table}-{args.data}", told):
        print(f"{args.readme} has no block {table}-{args.data} to write the table into")
