"""The log that the batch stage leaves in a cache's folder: one JSON object a line, an "end" for
each finished run."""

from __future__ import annotations

import json
from pathlib import Path


def runs(folder: Path) -> dict[str, float]:
    """What all finished runs took together.

    Returns:
        runs, computed (images), copied (rows), seconds, and per_core: images a second and worker.
    """
    ends = []
    for file in sorted(folder.glob("log*.jsonl")):
        for line in file.read_text(errors="replace").splitlines():
            try:
                event = json.loads(line)
            except ValueError:  # a kill may have cut a line
                continue
            if (
                isinstance(event, dict)
                and event.get("event") == "end"
                and event["computed"] + event["copied"]
            ):
                ends.append(event)
    core_seconds = sum(end["seconds"] * end["workers"] for end in ends)
    computed = sum(end["computed"] for end in ends)
    return {
        "runs": len(ends),
        "computed": computed,
        "copied": sum(end["copied"] for end in ends),
        "seconds": sum(end["seconds"] for end in ends),
        "per_core": computed / max(core_seconds, 1e-9),
    }
