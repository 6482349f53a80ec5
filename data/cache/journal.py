"""The log that the batch stage leaves in a cache's folder: one JSON object a line, an "end" for
each finished run."""

import contextlib
import json
from pathlib import Path

from data.io import is_own


def runs(folder: Path) -> dict[str, float]:
    """What all finished runs took together.

    Returns:
        runs, computed (images), copied (rows), seconds, and per_core: images a second and worker.
    """
    total = {"runs": 0, "computed": 0, "copied": 0, "seconds": 0.0}
    core_seconds = 0.0
    for file in filter(is_own, sorted(folder.glob("log*.jsonl"))):
        for line in file.read_text(errors="replace").splitlines():
            # a kill may have cut a line; other events have none of the numbers
            with contextlib.suppress(ValueError, KeyError, TypeError):
                event = json.loads(line)
                if event["computed"] + event["copied"]:
                    core_seconds += event["seconds"] * event["workers"]
                    total = {name: n + event.get(name, 1) for name, n in total.items()}
    return total | {"per_core": total["computed"] / max(core_seconds, 1e-9)}
