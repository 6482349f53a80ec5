"""The tables of the evidence: does DiLo do here what the paper says?

    python -m experiments e1 --data embedded --seeds 3

e1: which masks help, and does localization matter or occlusion? e2: other backgrounds. e3: what the
foreground is pasted onto. e4: how often views are pasted. e5: how fine the masks are stored. e6:
other methods than SimCLR. What is finished is kept; a stopped table continues.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from tqdm import tqdm

from benchmarks.publish import block_of, fill
from data.cli import UsageError, note, require, run
from data.stopping import ending
from experiments.backgrounds import challenge, diagnose
from experiments.jobs import STOPPED
from experiments.masks import mask_scores
from experiments.rows import TABLES, choose, real_data
from experiments.runner import Study, prepare, run_row, save, unpack
from experiments.table import gather, markdown, seeds_shown


@dataclass(frozen=True)
class Arguments:
    """Options of every table."""

    table: tyro.conf.Positional[Literal["e1", "e2", "e3", "e4", "e5", "e6", "all"]]
    """Table, or all of them."""
    data: Literal["embedded", "imagenette", "imagenette64", "imagenette64-simclr"] = "embedded"
    """Images to run on; imagenette64 is the full budget for a GPU: ResNet-18 at 64 px by MoCo v2,
    or by SimCLR."""
    seeds: int = 3
    """Seeds 0, 1, ... of every row; 0 only writes the table of what there is."""
    rows: tuple[str, ...] = ()
    """Rows to run, by name (default: all)."""
    epochs: int | None = None
    """Passes over the images (default: 14 on the embedded data, 50 on imagenette, 60 on
    imagenette64)."""
    write: bool = True
    """Write the table; --no-write only runs rows, for commands side by side that share --out."""
    workers: int = 0
    """Processes that decode, a training; several where it runs on a GPU. Does not change the
    numbers."""
    out: str = "runs/experiments"
    """Folder of runs and numbers."""
    known: str | None = None
    """Folder of numbers of earlier runs, on any machine: they count as run, and the new ones are
    added; the repository's own is experiments/measured (default: none, everything is run here)."""
    readme: str = "docs/results.md"
    """Page whose block of the table is written, where it has one."""


@ending(STOPPED)
def main() -> None:
    """Make one table or all."""
    args = tyro.cli(Arguments, prog="python -m experiments", description=__doc__)
    require(args, seeds=0)
    data = choose(args.data, args.epochs)
    os.environ.setdefault("DILO_WEIGHTS", str(real_data("weights")))
    tables = TABLES if args.table == "all" else (args.table,)
    studies = [Study(table, data, Path(args.out, data.folder), args.workers) for table in tables]
    for study in studies:  # what cannot be used is said before hours of work
        known_scores(study, args)
    for study in studies:
        run_rows(study, args)
        if args.write:
            write_table(study, args)


def known_scores(study: Study, args: Arguments) -> dict[str, dict[str, float]]:
    """Unpack the runs that are known, see `unpack`; the scores of the rows' masks."""
    scores = unpack(Path(args.known), study) if args.known else {}
    return scores | unpack(Path(args.out), study, replaced=args.write)


def run_rows(study: Study, args: Arguments) -> None:
    """Run what is missing of a table's rows, seed by seed."""
    for label in set(args.rows) - set(study.rows):
        rows = ", ".join(study.rows)
        raise UsageError(f"--rows {label}: {study.table} on {args.data} has {rows}")
    if args.seeds:
        prepare(study)
    jobs = [(label, seed) for seed in range(args.seeds) for label in args.rows or study.rows]
    for label, seed in tqdm(jobs, desc=f"{study.table} on {args.data}", unit="run"):
        if result := run_row(study, label, seed):
            knn, linear = result["measured"]["knn"], result["measured"]["linear"]
            tqdm.write(f"{label}, seed {seed}: kNN {knn:.1f}, linear {linear:.1f}")


def write_table(study: Study, args: Arguments, measures: bool = True) -> None:
    """Write a table of the runs that are there: numbers to OUT/DATA/TABLE.json, the table into the
    page.

    Args:
        measures: measure what finished runs lack, and score masks whose scores are not known.
    """
    if measures and study.data.source:
        challenge(study)
    elif measures and study.table == "e2":
        diagnose(study)
    command = f"python -m experiments {study.table} --data {args.data}"
    command += f" --epochs {args.epochs}" if args.epochs else ""
    masks = known_scores(study, args)  # again: another command may have added runs
    result = gather(study, command, mask_scores(study, masks) if measures else masks)
    folders = filter(None, (args.known, args.out))
    files = [Path(folder, args.data, f"{study.table}.json") for folder in folders]
    text = markdown(result)
    try:
        for file in reversed(files):  # --out's, which is the new one, first
            save(file, result)
        write_page(args.readme, f"{study.table}-{args.data}", text)
    finally:  # hours of work: they are shown also where the disk is full
        print(f"\n{text}\n\nnumbers: {files[-1]}")


def write_page(page: str, block: str, text: str) -> bool:
    """Write a table into its block of a page, unless the table there has more runs; whether it was
    written."""
    new, old = seeds_shown(text), seeds_shown(block_of(page, block))
    if more := [label for label, seeds in old.items() if seeds > new.get(label, 0)]:
        note(
            f"{page}: stays, its table has more runs of {', '.join(more)}; empty its block {block} "
            "to have it replaced, or give another --readme"
        )
        return False
    if not fill(page, block, text):
        print(f"{page}: not written, or it has no block {block}")
        return False
    return True


if __name__ == "__main__":
    run(main)
