"""Records: seconds to results that anyone can repeat, each by one command.

    python -m benchmarks.records              # `make records`: all that this machine can measure
    python -m benchmarks.records --only rbd   # the others keep their numbers

Wall time from the command's start, so nothing else should run beside it. The kNN record is the time
until the baseline's nearest-neighbour accuracy (k = 200) on Imagenette at 64 px reaches TARGET.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from benchmarks.publish import PAGE, markdown, publish
from data.cli import UsageError, run
from data.io import read_json
from experiments.rows import BASE, choose, method_flags, real_data
from experiments.runner import stamp

TARGET = 0.545  # 85 % of the 64.1 % that it has at its end, docs/results.md
TITLES = {
    "knn": f"Imagenette, ResNet-18 at 64 px: kNN {TARGET:.1%} without DiLo, on a GPU",
    "demo": "the demo: data, masks, four trainings, five evaluations",
    "rbd": "masks of Imagenette's 9,469 images, `rbd`",
    "fusion": "masks of Imagenette's 9,469 images, `fusion`",
}


@dataclass(frozen=True)
class Arguments:
    """Measure records on this machine."""

    only: tuple[Literal["knn", "demo", "rbd", "fusion"], ...] = tuple(TITLES)
    """Records to measure; kNN is left out where there is no GPU."""
    json: str = "benchmarks/records.json"
    """File of all records, to which these are added."""
    readme: str = PAGE
    """Page whose records block is written, where it has one."""


def main() -> None:
    args = tyro.cli(Arguments, prog="python -m benchmarks.records", description=__doc__)
    file = Path(args.json)
    records = read(file) if file.exists() else {}
    try:
        for name in args.only:
            if name != "knn" or torch.cuda.is_available():
                with tempfile.TemporaryDirectory(prefix="record-") as out:
                    took = seconds(command(name, out), Path(out, "log.jsonl"))
                records[name] = {"seconds": took, **stamp()}
    finally:  # those that were measured before one failed
        publish({"records": records}, table(records), file, args.readme, "records")


def read(file: Path) -> dict[str, dict]:
    """The records of a file. UsageError where it is damaged."""
    try:
        records = read_json(file)["records"]
        table(records)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(
            f"{file}: damaged; restore it, or delete it and all records are measured again"
        ) from None
    return records


def command(name: str, out: str) -> list[str]:
    """Module and arguments of a record's command.

    Raises:
        UsageError: Imagenette is not there.
    """
    if name == "demo":
        return ["experiments.demo", "--out", out]
    source = real_data("imagenette_128")
    images = f"{source}/train"
    if not os.path.isdir(images):
        raise UsageError(
            f"{source}: no Imagenette there; set DILO_SHARED to the folder above data/"
        )
    if name != "knn":
        return ["preprocess", images, f"{out}/masks", "--estimator", name]
    data = choose("imagenette64")
    options = (*method_flags(data, BASE), "--preset", data.preset, "--epochs", str(data.epochs))
    knn = ("--knn", str(source), "--knn-k", "200", "--knn-every", "1")
    return ["train", images, "--out", out, *options, *knn]


def seconds(arguments: list[str], log: Path) -> float:
    """Run a command to its end, or a training until its log has TARGET.

    Raises:
        UsageError: it fails, or does not reach TARGET.
    """
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", *arguments])
    try:
        while not (done := reached(log)) and process.poll() is None:
            time.sleep(0.1)
        took = time.perf_counter() - start
    finally:
        process.terminate()
        code = process.wait()
    if not done and (code or arguments[0] == "train"):
        raise UsageError(f"`python -m {' '.join(arguments)}` failed, or stayed below its target")
    return round(took, 1)


def reached(log: Path) -> bool:
    """Whether a training's log has a kNN accuracy of TARGET."""
    text = log.read_text() if log.exists() else ""
    return any(float(top1) >= TARGET for top1 in re.findall(r'"knn": ([\d.]+)', text))


def table(records: dict[str, dict]) -> str:
    """The records as Markdown."""
    rows = []
    for name, title in TITLES.items():
        measured = "not run | | "
        if name in records:
            measured = "{seconds:.0f} | {machine} | {commit}, {date}".format(**records[name])
        rows.append(f'{title} | {measured} | `make records ARGS="--only {name}"`')
    return markdown("result | seconds | on | commit and date | command", rows)


if __name__ == "__main__":
    run(main)
