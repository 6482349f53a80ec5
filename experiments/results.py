"""A table's numbers: what its rows' runs measured, gathered into one JSON, and which of the rows
count."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from experiments.rows import base_of
from experiments.runner import RESULT, commit, machine
from experiments.settings import Data, Row
from experiments.verdict import difference, passes


def gather(
    table: str,
    rows: dict[str, Row],
    data: Data,
    out: Path,
    command: str,
    scores: dict | None = None,
) -> dict:
    """The numbers of every row that has finished runs.

    Args:
        command: that makes the table, but for the seeds: the most that a row has are put there.
        scores: label -> what its masks are worth, see experiments.scores.

    Returns:
        JSON-able: "table", "data", "epochs", "command", "commit", "date", "machine" and "rows":
        label -> {"runs": [what the runner wrote], "counts": "" or why the row does not, "mask":
        scores}.
    """
    found = {}
    for label, row in rows.items():
        files = sorted(
            (out / row.folder(data)).glob(f"seed*/{RESULT}"), key=lambda p: int(p.parent.name[4:])
        )
        found[label] = {
            "runs": [json.loads(f.read_text()) for f in files],
            "mask": (scores or {}).get(label),
        }
    for label, entry in found.items():
        entry["counts"] = why_not(entry["runs"], found[base_of(table, label)]["runs"])
    command += f" --seeds {max(len(entry['runs']) for entry in found.values())}"
    return {
        "table": table,
        "data": data.name,
        "epochs": data.epochs,
        "stored": data.stored,
        "network": data.network,
        "command": command,
        "commit": commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": machine(),
        "rows": found,
    }


def why_not(runs: list[dict], base: list[dict]) -> str:
    """Why a row does not count: "" where it does.

    A row is worth something only where its baseline learned: beat the untrained network by
    verdict.GATE points of kNN.
    """
    if not runs:
        return "not run"
    untrained = [run["untrained"]["knn"] for run in base if "untrained" in run]
    if not untrained:
        return "no baseline"
    knn = float(np.mean([run["measured"]["knn"] for run in base]))
    return (
        ""
        if passes(knn, float(np.mean(untrained)))
        else f"too small to tell: the baseline's kNN is {knn:.1f}, the untrained network's {np.mean(untrained):.1f}"
    )


def by_seed(entry: dict, *keys: str) -> dict[int, float]:
    """Seed -> one number of a row, as "backgrounds", "biased", "gap"; seeds that lack it are left
    out."""
    found = {}
    for run in entry["runs"]:
        value = run["measured"]
        for key in keys:
            value = value.get(key) if value is not None else None
        if value is not None:
            found[run["seed"]] = value
    return found


def against_base(result: dict, *keys: str) -> dict:
    """Label -> verdict.Difference of a row that counts to its baseline (which itself is left
    out)."""
    rows, found = result["rows"], {}
    for label, entry in rows.items():
        base = base_of(result["table"], label)
        if base != label and not entry["counts"]:
            found[label] = difference(by_seed(entry, *keys), by_seed(rows[base], *keys))
    return found
