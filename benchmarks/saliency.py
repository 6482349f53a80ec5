"""Accuracy of every estimator on ECSSD, beside the authors' own code, into the README.

    python -m benchmarks.saliency --ecssd ../shared/data/ecssd --json runs/bench/saliency.json

Numbers of the authors' code: run on all 1,000 images, scored with pysodmetrics. `fusion` was chosen
on the even numbers and is reported on the odd ones too. Networks are scored where their weights are
found ($DILO_WEIGHTS, or torch hub's cache folder); else their rows say so.
"""

import data.one_thread  # noqa: F401 - before numpy is imported

# isort: split
import os
from dataclasses import dataclass, replace
from typing import Annotated

import tyro

from benchmarks.publish import PAGE, markdown, publish
from data.cli import run
from evaluate.masks.saliency import Arguments as Scoring
from evaluate.masks.saliency import cell, evaluate
from preprocess import estimators

NAMES = (
    "fusion",
    "rbd",
    "mr",
    "mc",
    "mbd",
    "gs",
    "sf",
    "grabcut",
    "ft",
    "centre",
    "spectral",
    "fine_grained",
)
ODD = "fusion"  # also reported on the half that had no part in making them
ABSENT = "no weights here"
TITLES = {
    "mae": "MAE ↓",
    "max_f_a": "maxF a",
    "max_f_b": "maxF b",
    "mean_f": "mean F",
    "adaptive_f": "adaptive F",
    "s": "S",
    "mean_e": "mean E",
    "weighted_f": "weighted F",
    "iou": "IoU",
    "adaptive_iou": "adaptive IoU",
}
METRICS = tuple(TITLES)[:7]  # the authors' code was not scored by the others
AUTHORS = {  # the authors' own code on all of ECSSD, measured by us, in METRICS' order
    "rbd": (0.1714, 0.672, 0.716, 0.562, 0.676, 0.688, 0.654),
    "mr": (0.1893, 0.670, 0.736, 0.570, 0.689, 0.689, 0.636),
    "mc": (0.2025, 0.671, 0.739, 0.538, 0.699, 0.692, 0.611),
    "mbd": (0.1936, 0.683, 0.735, 0.608, 0.674, 0.714, 0.686),
    "gs": (0.2058, 0.623, 0.661, 0.509, 0.608, 0.660, 0.626),
    "sf": (0.2188, 0.510, 0.548, 0.303, 0.492, 0.479, 0.452),
}
MARGIN = 0.015  # how much worse a metric may be


@dataclass(frozen=True)
class Arguments:
    """Score every estimator on ECSSD."""

    ecssd: str
    """Folder with images/NNNN.jpg and masks/NNNN.png."""
    json_file: Annotated[str, tyro.conf.arg(name="json")] = "runs/bench/saliency.json"
    """File for the numbers."""
    workers: int = 1
    """Processes; more than one blurs the milliseconds."""
    limit: int | None = None
    """Images, spread evenly; for a quick look."""
    readme: str = PAGE
    """Page whose bench-saliency block is written, where it has one."""


def main() -> int:
    args = tyro.cli(Arguments, prog="python -m benchmarks.saliency", description=__doc__)
    networks = {name: estimators.has_weights(name) for name in sorted(estimators.NETWORKS)}
    names = (*NAMES, *(name for name, present in networks.items() if present))
    scoring = Scoring(
        images=os.path.join(args.ecssd, "images"),
        truth=os.path.join(args.ecssd, "masks"),
        estimator=",".join(names),
        limit=args.limit,
        workers=args.workers,
        examples=0,
    )
    result = evaluate(scoring)
    half = replace(scoring, estimator=ODD, half="odd")
    result["odd"] = evaluate(half)["estimators"]
    result["absent"] = [name for name, present in networks.items() if not present]
    result["worse_than_authors"] = worse(result["estimators"])
    del result["paths"]
    publish(result, table(result), args.json_file, args.readme, "bench-saliency")
    for name, metric, loss in result["worse_than_authors"]:
        print(f"{name}: {metric} is {loss:.4f} worse than the authors' code, more than {MARGIN}")
    return 1 if result["worse_than_authors"] else 0


def worse(entries: dict[str, dict]) -> list[tuple[str, str, float]]:
    """(estimator, metric, by how much) where more than MARGIN is lost against the authors' code."""
    losses = [
        (name, metric, (entries[name][metric] - value) * (1 if metric == "mae" else -1))
        for name, reference in AUTHORS.items()
        for metric, value in zip(METRICS, reference, strict=True)
    ]
    return [loss for loss in losses if loss[2] > MARGIN]


def table(result: dict) -> str:
    """Markdown: ours, the authors' in brackets, what ODD has on the other half, and networks
    without weights."""
    odd = {f"{name}, odd numbers": entry for name, entry in result["odd"].items()}
    rows = []
    for name, entry in (result["estimators"] | odd).items():
        cells = [cell(entry[metric], metric) for metric in TITLES]
        for i, (metric, value) in enumerate(zip(METRICS, AUTHORS.get(name, ()), strict=False)):
            cells[i] += f" ({cell(value, metric)})"
        rows.append(f"{name} | {' | '.join(cells)} | {entry['ms']:.1f}")
    rows += [f"{name} | {ABSENT} |{' |' * (len(TITLES) - 1)}" for name in result["absent"]]
    text = markdown(f"estimator | {' | '.join(TITLES.values())} | ms", rows)
    about = f"ECSSD, {result['count']} images; in brackets the authors' own code on all 1,000."
    return f"{about}\n\n{text}"


if __name__ == "__main__":
    run(main)
