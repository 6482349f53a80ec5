"""Numbers of earlier runs, kept in a folder (the repository's own: experiments/measured), to go on
elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

from data.cli import UsageError
from data.io import write_text
from experiments.runner import RESULT
from experiments.settings import Data, Row


def unpack(known: Path, table: str, rows: dict[str, Row], data: Data, out: Path) -> dict[str, dict]:
    """Write the runs of KNOWN/DATA/TABLE.json, as `gather` made it, beside those in `out`, which
    stay as they are.

    Only their numbers: what is measured later from weights (E2's diagnosis) is not measured for
    them. Runs of another number of epochs are left out.

    Returns:
        label -> what its masks were worth there.

    Raises:
        UsageError: the file is not a table's.
    """
    file = known / data.name / f"{table}.json"
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text())
        runs = [(label, run) for label, entry in found["rows"].items() for run in entry["runs"]]
        worth = {label: entry["mask"] for label, entry in found["rows"].items() if entry["mask"]}
        same = (found["data"], found["epochs"]) == (data.name, data.epochs)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(
            f"{file}: not the numbers of a table; give a folder that --known wrote before"
        ) from None
    for label, run in runs if same else ():
        place = (
            out / rows[label].folder(data) / f"seed{run['seed']}" / RESULT
            if label in rows
            else None
        )
        if place and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            write_text(place, json.dumps(run, indent=1) + "\n")
    return worth
