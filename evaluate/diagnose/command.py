"""Does the network look at the object? (the paper's question) Several runs on the same images.

    python -m evaluate diagnose --runs RUN RUN --data DATA
    python -m evaluate diagnose --runs RUN RUN --data DATA --masks CACHE --bank-masks CACHE

The first is for DATA of `python -m data synthetic`, whose true masks are used. Heat maps say where
the kNN decision and a linear one come from; against the masks: the share of their mass on the
object, the pointing game, IoU. Wrong nearest neighbours are split by whether they share the query's
background rather than its object, both judged by the features of the first run for all runs, with
the object filled in, or alone. Nothing is random. The JSON, the figure beside it, and
RUN/diagnose.json of each run (for `make report`) are written.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from data.io import write_text
from evaluate.common import describe
from evaluate.diagnose import heat, splits
from evaluate.diagnose.arguments import Arguments
from evaluate.diagnose.figure import sheet
from evaluate.diagnose.neighbours import NEAR
from evaluate.diagnose.network import CUTS, Pictures, diagnose, features
from evaluate.diagnose.splits import Split
from evaluate.features import Encoder, load_encoder

SHOWN = ("share", "pointing", "iou", "same_background", "background_rather", "knn", "linear")
CHANCE = {"same_background": 100 * NEAR, "background_rather": 50.0}


def evaluate(arguments: Arguments) -> dict:
    """Diagnose several networks on the same images.

    Returns:
        "protocol"; "runs": {run: {"accuracy": the main numbers, all percent (`pointing`, `share`,
        `iou`: of the kNN decision's Grad-CAM; `same_background`, `background_rather`: of wrong
        neighbours; `knn`, `linear`: top-1), "maps": {"knn" or "linear": {method:
        localisation.percent}}, "neighbours": neighbours.split and, on the embedded data,
        neighbours.known, "chance": what an uninformative map would have}}; "chance": the same,
        where it is that of all runs; "pictures": {run: Pictures}.

    Raises:
        UsageError: a run, folder or mask that is missing or does not fit.
    """
    embedded = splits.embedded_description(arguments.data)
    arguments = arguments.resolve(bool(embedded))
    bank, queries = splits.bank_and_queries(arguments)
    reference, runs, pictures, maps_at = None, {}, {}, {}
    for name in arguments.runs:
        encoder = _encoder(name, arguments)
        if arguments.bank_masks and reference is None:
            reference = {
                cut: [features(encoder, part, cut, arguments.workers) for part in (bank, queries)]
                for cut in CUTS
            }
        stage, side = heat.stage_of(encoder, arguments.stage)
        shared = {"reference": reference, "embedded": embedded}
        numbers, pictures[name] = diagnose(arguments, encoder, stage, bank, queries, shared)
        runs[name] = _without_nan(numbers)
        maps_at[name] = f"{stage}, {side}x{side}, of {encoder.size} px"
    first, *others = (numbers["chance"] for numbers in runs.values())
    return {
        "evaluation": "diagnose",
        "data": arguments.data,
        "protocol": {**_protocol(arguments, bank, queries), "maps_at": maps_at},
        **({"chance": first} if all(other == first for other in others) else {}),
        "runs": runs,
        "pictures": pictures,
    }


def lines(result: dict) -> list[str]:
    """The main numbers as text, a run a line."""
    rows = {run: values["accuracy"] for run, values in result["runs"].items()}
    names = [name for name in SHOWN if any(name in row for row in rows.values())]
    if "chance" in result:
        rows["chance"] = result["chance"] | CHANCE
    else:  # images of several sizes
        chances = {f"chance, {run}": v["chance"] | CHANCE for run, v in result["runs"].items()}
        rows |= chances
    width = max(map(len, rows))
    text = [" " * width + "".join(f"{name:>18}" for name in names)]
    for run, row in rows.items():
        values = [row.get(name) for name in names]
        cells = ["-" if value is None else f"{value:.2f}" for value in values]
        text.append(f"{run:<{width}}" + "".join(f"{cell:>18}" for cell in cells))
    return [f"diagnose ({describe(result['protocol'])})", *text]


def draw(arguments: Arguments, result: dict, pictures: dict[str, Pictures]) -> list[Path]:
    """Write each run's own numbers into its folder, and the figure beside the JSON; their files."""
    files = []
    for run, numbers in result["runs"].items():
        if os.path.isdir(run):
            about = {"evaluation": "diagnose", "run": run, "data": result["data"]}
            own = {**about, "protocol": result["protocol"], **numbers}
            files.append(Path(run, "diagnose.json"))
            write_text(files[-1], json.dumps(own, indent=2) + "\n")
    if arguments.examples:
        files.append(sheet(pictures).write(arguments.result_file().with_suffix(".png"), dpi=110))
    return files


def _encoder(name: str, arguments: Arguments) -> Encoder:
    """The network of a run folder, of `untrained:RUN`, or of a file of weights."""
    place = name.removeprefix("untrained:")
    run, weights = (None, place) if os.path.isfile(place) else (place, None)
    untrained = name != place
    return load_encoder(run, arguments.device, untrained, weights, size=arguments.size)


def _protocol(arguments: Arguments, bank: Split, queries: Split) -> dict:
    count = min(arguments.limit, len(queries.images))
    return {
        "queries": arguments.queries,
        "query_images": len(queries.rows),
        "without_mask": count - len(queries.rows),
        "bank": arguments.bank,
        "bank_images": len(bank.rows),
        "classes": len(bank.images.classes),
        "k": arguments.k,
        "temperature": arguments.temperature,
        "knn_map": "log of the decided class's vote",
        "linear_map": "decided logit less the mean, L-BFGS on standardised features",
        "l2": arguments.l2,
        "masks": arguments.masks,
        "bank_masks": arguments.bank_masks,
        "ruler": arguments.runs[0],
        "shares_background": f"among the {NEAR:.0%} of the bank nearest by it",
        "random": "nothing",
    }


def _without_nan(values):
    """For a JSON: None where a number does not exist."""
    if isinstance(values, dict):
        return {key: _without_nan(value) for key, value in values.items()}
    return None if isinstance(values, float) and math.isnan(values) else values
