"""How `selftaught` grows with the number of images that it is trained on, scored on ECSSD's odd-numbered images.

    python -m benchmarks.selftaught --images FOLDER FOLDER --ecssd ../shared/data/ecssd --limits 250 1000

Every run takes the same number of steps. Nothing is chosen with the scores; the training never sees a true mask.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy is imported

import json  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402

import tyro  # noqa: E402

from benchmarks.readme import fill  # noqa: E402
from benchmarks.saliency import METRICS, OTHERS, TITLES, number  # noqa: E402
from data.cli import UsageError, run  # noqa: E402
from data.files import write_text  # noqa: E402
from evaluate.saliency import run as score  # noqa: E402

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
    text = table(result)
    print(text)
    written = fill(args.docs, "bench-selftaught", text)
    print(f"written: {args.json}" + (f", {args.docs}" if written else ""))
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
