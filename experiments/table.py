"""What the scripts of all tables share: the command line, and running the rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from data.cli import UsageError
from experiments.rows import rows_of
from experiments.runner import prepare, run_row
from experiments.settings import choose


@dataclass(frozen=True)
class Arguments:
    """Options of every table."""

    data: Literal["embedded", "imagenette"] = "embedded"
    """Images to run on."""
    seeds: int = 3
    """Seeds 0, 1, ... of every row."""
    rows: tuple[str, ...] = ()
    """Rows to run, by name (default: all)."""
    epochs: int | None = None
    """Passes over the images (default: the reduced version's, 14 on the embedded data and 20 on Imagenette)."""
    out: str = "runs/experiments"
    """Folder of runs and numbers."""


def main(table: str, description: str) -> None:
    args = tyro.cli(Arguments, prog=f"python -m experiments.{table}", description=description)
    data = choose(args.data, args.epochs)
    rows = rows_of(table, args.data)
    unknown = sorted(set(args.rows) - set(rows))
    if unknown:
        raise UsageError(f"--rows {unknown[0]}: {table} on {args.data} has {', '.join(rows)}")
    out = Path(args.out, args.data)
    images = prepare(data, out)
    for seed in range(args.seeds):
        for name in args.rows or rows:
            print(f"== {table} {args.data}: {name}, seed {seed}", flush=True)
            found = run_row(rows[name], data, seed, out, images)
            print({k: v for k, v in found["measured"].items() if k != "backgrounds"}, flush=True)
