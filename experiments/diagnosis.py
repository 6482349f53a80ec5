"""Where the networks of a table look: evaluate.diagnose over the runs of each seed, kept beside
their other numbers."""

from __future__ import annotations

import json
from pathlib import Path

from data.io import write_text
from evaluate.diagnose.command import run
from experiments.runner import RESULT
from experiments.settings import Data, Row
from train import checkpoint

QUERIES = 500  # of the embedded data's `original`
KEPT = ("pointing", "share", "iou", "same_background", "background_rather")


def diagnose(rows: dict[str, Row], data: Data, out: Path, images: Path, base: str = "none") -> None:
    """Add "diagnosis" (percent, by KEPT) to what the finished runs measured; runs that have it are
    left alone.

    All runs of a seed are judged on the same queries; the baseline's features tell which
    backgrounds are alike.
    """
    seeds = sorted((out / rows[base].folder(data)).glob(f"seed*/{RESULT}"))
    for seed in (file.parent.name for file in seeds):
        files = {label: out / row.folder(data) / seed / RESULT for label, row in rows.items()}
        files = {
            label: file
            for label, file in files.items()
            if file.exists() and file.with_name(checkpoint.BACKBONE).exists()
        }  # numbers of another machine's run have no weights
        results = {label: json.loads(file.read_text()) for label, file in files.items()}
        if base not in results or all(
            "diagnosis" in result["measured"] for result in results.values()
        ):
            continue
        names = {label: str(file.parent) for label, file in files.items()}
        order = [names[base], *(name for label, name in names.items() if label != base)]
        found = run(order, str(images), limit=QUERIES, examples=0)["runs"]
        for label, result in results.items():
            accuracy = found[names[label]]["accuracy"]
            result["measured"]["diagnosis"] = {
                key: accuracy[key] for key in KEPT if key in accuracy
            }
            write_text(files[label], json.dumps(result, indent=1) + "\n")
