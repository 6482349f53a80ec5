"""What decides most, on a GPU within minutes: Imagenette, ResNet-18 at 64 px.

    python -m experiments.gpu                # `make evidence-gpu`

First the better of MoCo v2 and SimCLR as the base, by kNN of a short run of each without DiLo. Then
E1's rows none, fusion, u2netp, rbd and shuffled, side by side, seed after seed; then E3's `random`
and `swap`. It ends by itself before the time is over; what is done is kept, and the same command
continues.
"""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from tqdm import tqdm

from data.cli import UsageError, run
from experiments.__main__ import Arguments as TableArguments
from experiments.__main__ import make
from experiments.jobs import side_by_side
from experiments.rows import choose, real_data
from experiments.runner import Study, make_masks, needs

BASES = ("imagenette64", "imagenette64-simclr")
# table -> rows that are run side by side, in this order
ROWS = {
    "e1": ("none", "fusion", "u2netp, human-taught", "rbd", "shuffled"),
    "e3": ("random", "swap"),
}


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
    """Processes that decode, a training; seven trainings run side by side at most."""
    out: str = "runs/experiments"
    """Folder of runs and numbers."""
    readme: str = "docs/results.md"
    """Page whose blocks of the tables are written, where it has them."""
    device: str = "cuda"
    """cuda, or cpu to try the program."""


def main() -> None:
    """Choose the base, run the rows, write the tables."""
    args = tyro.cli(Arguments, prog="python -m experiments.gpu", description=__doc__)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("no GPU that torch can use here; `make e1 DATASET=imagenette` needs none")
    if min(args.minutes, args.seeds, args.base_epochs) <= 0 or args.workers < 0:
        raise UsageError(
            "--minutes, --seeds and --base-epochs must be above 0, --workers at least 0"
        )
    os.environ.setdefault("DILO_WEIGHTS", str(real_data("weights")))
    ends = time.monotonic() + 60 * args.minutes
    logs = Path(args.out, "logs")
    logs.mkdir(parents=True, exist_ok=True)
    name = choose_base(args, logs)
    data = choose(name, args.epochs)
    for table, labels in ROWS.items():
        study = Study(table, data, Path(args.out, data.folder))
        for row in map(study.rows.get, labels):  # here, since rows that share a cache would collide
            if row.masks != "none" and all(path.exists() for path in needs(row)):
                make_masks(study.originals / "train", study.cache(row), row.masks, row.side)
        minutes = (ends - time.monotonic()) / 60
        jobs = {label: command(args, table, name, label, minutes) for label in labels}
        if minutes > 0:
            run_all({logs / f"{table}-{label}.txt": job for label, job in jobs.items()}, table)
        written = TableArguments(table, name, 0, epochs=args.epochs, out=args.out)
        make(study, replace(written, readme=args.readme))


def choose_base(args: Arguments, logs: Path) -> str:
    """The data set of BASES whose short run without DiLo has the higher kNN; its images are made
    where they are missing."""
    few = replace(args, seeds=1, epochs=args.base_epochs)
    jobs = {logs / f"base-{name}.txt": command(few, "e1", name, "none") for name in BASES}
    run_all(jobs, "base")
    knn = {}
    for name in BASES:
        data = choose(name, args.base_epochs)
        results = Study("e1", data, Path(args.out, data.folder)).results("none")
        knn[name] = next(iter(results.values()))["measured"]["knn"]
    best = max(knn, key=knn.get)
    said = ", ".join(f"{name} {value:.1f}" for name, value in knn.items())
    print(f"kNN after {args.base_epochs} epochs: {said}; the base is {best}", flush=True)
    return best


def command(
    args: Arguments, table: str, data: str, label: str, minutes: float = 60.0
) -> tuple[str, ...]:
    """Module and arguments that run one row; the table is written at the end."""
    options = ("--data", data, "--rows", label, "--seeds", str(args.seeds))
    options += ("--epochs", str(args.epochs)) if args.epochs else ()
    options += ("--minutes", f"{minutes:.2f}", "--workers", str(args.workers), "--out", args.out)
    return ("experiments", table, *options, "--no-write")


def run_all(jobs: dict[Path, tuple[str, ...]], name: str) -> None:
    """Run commands side by side under one bar."""
    with tqdm(total=len(jobs), desc=name, unit="row") as bar:
        side_by_side(jobs, bar)


if __name__ == "__main__":
    run(main)
