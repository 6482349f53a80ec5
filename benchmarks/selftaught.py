"""How `selftaught` grows with the number of images that it is trained on, scored on ECSSD's odd-numbered images.

    python -m benchmarks.selftaught --images FOLDER FOLDER --ecssd ../shared/data/ecssd --limits 250 1000

Every run takes the same number of steps. Nothing is chosen with the scores; the training never sees a true mask.
"""

from __future__ import annotations

import benchmarks.one_core  # noqa: F401 - before numpy is imported

# isort: split
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.publish import publish
from benchmarks.saliency import METRICS, OTHERS, TITLES, number
from data.cli import UsageError, run
from data.files import write_text
from evaluate.saliency import run as score

CARD, WEIGHTS = "card.json", "selftaught.pt"


@dataclass(frozen=True)
class Arguments:
    """Train on more and more images, and score each network."""

    images: list[str]
    """Folders of images to train on."""
    ecssd: str
    """Folder with images/NNNN.jpg and masks/NNNN.png; only odd numbers are scored."""
    limits: tuple[int, ...] = (170, 700, 1000000)
    """Images of each folder that the runs take at most, one run each."""
    steps: int = 2700
    """Steps of every run."""
    out: str = "runs/bench/selftaught"
    """Folder of the runs; finished ones are kept and only scored again."""
    json: str = "runs/bench/selftaught.json"
    """File for the numbers."""
    docs: str = "docs/selftaught.md"
    """File whose bench-selftaught block is written, where it has one."""
    workers: int = 1
    """Processes."""


def main() -> int:
    args = tyro.cli(Arguments, prog="python -m benchmarks.selftaught", description=__doc__)
    if not args.limits or min(args.limits) < 2 or args.steps < 3:
        raise UsageError("--limits must be at least 2 each, --steps at least 3")
    result = {"steps": args.steps, "fusion": odd(args, "fusion"), "runs": []}
    for limit in args.limits:
        folder = Path(args.out) / f"{limit}"
        done = subprocess.run([sys.executable, "-m", "preprocess.selftaught", *args.images, "--out", str(folder),
                               "--cues", str(Path(args.out) / "cues"), "--limit", str(limit), "--steps",
                               str(args.steps), "--workers", str(args.workers)])
        if done.returncode:
            return done.returncode
        result["runs"].append(entry(args, folder))
        write_text(Path(args.json), json.dumps(result, indent=2) + "\n")
    publish(result, table(result), args.json, args.docs, "bench-selftaught")
    return 0


def entry(args: Arguments, folder: Path) -> dict:
    """What a finished run took, and its scores."""
    card = json.loads((folder / CARD).read_text())
    os.environ["DILO_WEIGHTS"] = str(folder / WEIGHTS)
    return {"images": card["images"], "seconds": card["seconds"], "sha256": card["sha256"],
            "steps": card["schedule"]["steps"], **odd(args, "selftaught")}


def odd(args: Arguments, name: str) -> dict:
    """Scores of an estimator on ECSSD's odd numbers, as evaluate.saliency's, and its milliseconds."""
    root = Path(args.ecssd)
    found = score(str(root / "images"), str(root / "masks"), [name], half="odd", workers=args.workers)
    return {metric: found["estimators"][name][metric] for metric in (*METRICS, *OTHERS, "ms")}


def table(result: dict) -> str:
    """Markdown: a row a number of images, and fusion."""
    lines = ["| trained on | " + " | ".join(TITLES) + " | ms | steps |", "|---" * (len(TITLES) + 3) + "|"]
    rows = [(f"{r['images']:,} images", r, f"{r['steps']:,}") for r in result["runs"]]
    for name, found, steps in [*rows, ("`fusion`, for comparison", result["fusion"], "")]:
        lines.append(f"| {name} | " + " | ".join(number(found[m], m) for m in (*METRICS, *OTHERS))
                     + f" | {found['ms']:.1f} | {steps} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
