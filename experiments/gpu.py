"""What decides most, on a GPU within minutes: Imagenette, ResNet-18 at 64 px.

    python -m experiments.gpu                # `make evidence-gpu`

First the better of MoCo v2 and SimCLR as the base, by kNN of a short run of each without DiLo. Then
E1's rows none, fusion, u2netp, rbd and shuffled, side by side, seed after seed; then E3's `random`
and `swap`. It ends by itself before the time is over; what is done is kept, and the same command
continues. Masks are not scored in that time, nor runs measured on other backgrounds: `python -m
experiments e1 --data NAME --seeds 0` adds these numbers to the table.
"""

import os
import time
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch
import tyro
from tqdm import tqdm

from data.cli import UsageError, require, run
from data.parallel import cpus
from data.stopping import ending
from experiments.__main__ import Arguments as TableArguments
from experiments.__main__ import known_scores, write_table
from experiments.jobs import STOPPED, side_by_side
from experiments.rows import choose, real_data
from experiments.runner import Study, device_options, make_masks, needs

BASES = ("imagenette64", "imagenette64-simclr")
# table -> rows that are run side by side, in this order
ROWS = {
    "e1": ("none", "fusion", "u2netp, human-taught", "rbd", "shuffled"),
    "e3": ("random", "swap"),
}
RESERVED = 0.03  # of the time, for stopping what runs and for the tables


@dataclass(frozen=True)
class Arguments:
    """Options of the command."""

    minutes: float = 12.0
    """It ends before so many minutes are over."""
    seeds: int = 4
    """Seeds 0, 1, ... of every row."""
    epochs: int | None = None
    """Passes over the images (default: 60)."""
    base_epochs: int = 15
    """Passes of the two short runs."""
    workers: int = 2
    """Processes that decode, a training; as many trainings run side by side as there are CPUs, five
    at most."""
    out: str = "runs/experiments"
    """Folder of runs and numbers."""
    readme: str = "docs/results.md"
    """Page whose blocks of the tables are written, where it has them."""
    device: str = "cuda"
    """cuda, or cpu to try the program."""


@ending(STOPPED)
def main() -> None:
    """Choose the base, run the rows, write the tables."""
    args = tyro.cli(Arguments, prog="python -m experiments.gpu", description=__doc__)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("no GPU that torch can use here; `make e1 DATASET=imagenette` needs none")
    require(args, "minutes", seeds=1, base_epochs=1, workers=0)
    os.environ.setdefault("DILO_WEIGHTS", str(real_data("weights")))
    ends = time.monotonic() + 60 * args.minutes * (1 - RESERVED)
    logs = Path(args.out, "logs")
    logs.mkdir(parents=True, exist_ok=True)
    options = {"epochs": args.epochs, "out": args.out, "readme": args.readme}
    tables = [TableArguments(t, base, 0, **options) for base, t in product(BASES, ROWS)]
    for table in tables:
        known_scores(study_of(table), table)  # what cannot be written is said first
    try:
        name = choose_base(args, logs, ends)
    except TimeoutError as error:
        print(error)
        return
    for table in [table for table in tables if table.data == name]:
        try:
            run_table(args, study_of(table), logs, ends)
        except TimeoutError as error:
            print(error, flush=True)
        write_table(study_of(table), table, measures=False)


def study_of(table: TableArguments) -> Study:
    """A table's study."""
    data = choose(table.data, table.epochs)
    return Study(table.table, data, Path(table.out, data.folder))


def choose_base(args: Arguments, logs: Path, ends: float) -> str:
    """The data set of BASES whose short run without DiLo has the higher kNN.

    Raises:
        TimeoutError: a short run was not done at `ends`.
    """
    few = replace(args, seeds=1, epochs=args.base_epochs)
    jobs = {logs / f"base-{name}.txt": command(few, "e1", name, "none") for name in BASES}
    run_all(jobs, "base", ends)
    knn = {}
    for name in BASES:
        study = study_of(TableArguments("e1", name, epochs=args.base_epochs, out=args.out))
        results = study.results("none")
        if not results:
            raise TimeoutError("the base is not chosen: --minutes are over; raise them")
        knn[name] = next(iter(results.values()))["measured"]["knn"]
    best = max(knn, key=knn.get)
    said = ", ".join(f"{name} {value:.1f}" for name, value in knn.items())
    print(f"kNN after {args.base_epochs} epochs: {said}; the base is {best}", flush=True)
    return best


def run_table(args: Arguments, study: Study, logs: Path, ends: float) -> None:
    """Make the masks of a table's rows, and run these side by side.

    Raises:
        TimeoutError: that was not done at `ends`.
    """
    table, labels = study.table, ROWS[study.table]
    for row in map(study.rows.get, labels):  # by all CPUs, before the rows share them
        if row.masks != "none" and all(path.exists() for path in needs(row)):
            cache = study.cache(row)
            options = device_options(row.masks, cache, args.device)
            work = {"workers": cpus(), "ends": ends}
            make_masks(study.originals / "train", cache, row.masks, row.side, *options, **work)
    commands = {label: command(args, table, study.data.name, label) for label in labels}
    run_all({logs / f"{table}-{label}.txt": job for label, job in commands.items()}, table, ends)


def command(args: Arguments, table: str, data: str, label: str) -> tuple[str, ...]:
    """Module and arguments that run one row; the table is written at the end."""
    options = ("--data", data, "--rows", label, "--seeds", str(args.seeds))
    options += ("--epochs", str(args.epochs)) if args.epochs else ()
    options += ("--workers", str(args.workers), "--out", args.out)
    return ("experiments", table, *options, "--no-write")


def run_all(jobs: dict[Path, tuple[str, ...]], name: str, ends: float) -> None:
    """Run commands side by side under one bar; TimeoutError where some were not done at `ends`."""
    with tqdm(total=len(jobs), desc=name, unit="row") as bar:
        if not side_by_side(jobs, bar, ends=ends):
            raise TimeoutError(
                f"{name}: not all is run, --minutes are over; the same command continues"
            )


if __name__ == "__main__":
    run(main)
