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
from dataclasses import replace
from pathlib import Path

from data.cli import describe as describe_error
from data.cli import note
from data.io import write_text
from evaluate.common import Common, aligned, beside, describe, spelling
from evaluate.diagnose import heat, splits
from evaluate.diagnose.arguments import Arguments
from evaluate.diagnose.figure import sheet
from evaluate.diagnose.neighbours import NEAR
from evaluate.diagnose.network import Pictures, Study, diagnose
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
    study = Study(arguments, *splits.bank_and_queries(arguments), embedded)
    runs, pictures, maps_at = {}, {}, {}
    for name in arguments.runs:
        encoder = _encoder(name, arguments)
        if arguments.bank_masks and study.reference is None:
            reference = [study.features(encoder, cut) for cut in ("background", "object")]
            study = replace(study, reference=reference)
        stage, side = heat.stage_of(encoder, arguments.stage)
        numbers, pictures[name] = diagnose(study, encoder, stage)
        runs[name] = _without_nan(numbers)
        maps_at[name] = f"{stage}, {side}x{side}, of {encoder.size} px"
    first, *others = (numbers["chance"] for numbers in runs.values())
    return {
        "evaluation": "diagnose",
        "data": spelling(arguments.data),
        "protocol": {**_protocol(study), "maps_at": maps_at},
        **({"chance": first} if all(other == first for other in others) else {}),
        "runs": runs,
        "pictures": pictures,
    }


def lines(result: dict) -> list[str]:
    """The main numbers as text, a run a line."""
    runs = result["runs"]
    chances = {f"chance, {run}": values["chance"] for run, values in runs.items()}
    if "chance" in result:  # or the images are of several sizes
        chances = {"chance": result["chance"]}
    rows = {run: values["accuracy"] for run, values in runs.items()}
    rows |= {name: values | CHANCE for name, values in chances.items()}
    cells = {
        name: {key: f"{row[key]:.2f}" for key in SHOWN if row.get(key) is not None}
        for name, row in rows.items()
    }
    return [f"diagnose ({describe(result['protocol'])})", *aligned(cells)]


def draw(arguments: Arguments, result: dict, pictures: dict[str, Pictures]) -> list[Path]:
    """Write the figure beside the JSON, and each run's own numbers into its folder (a note where
    that is not possible: the run may be another user's); their files."""
    files = []
    if arguments.examples:
        files.append(sheet(pictures).write(beside(arguments.result_file(), ".png"), dpi=110))
    about = {key: result[key] for key in ("evaluation", "data", "protocol")}
    for run in filter(os.path.isdir, result["runs"]):
        own = {**about, "run": run, **result["runs"][run]}
        file = Path(run, "diagnose.json")
        try:
            write_text(file, json.dumps(own, indent=2) + "\n")
            files.append(file)
        except OSError as error:
            note(f"{describe_error(error)}; the report will not find these numbers in {run}")
    return files


def _encoder(name: str, arguments: Arguments) -> Encoder:
    """The network of a run folder, of `untrained:RUN`, or of a file of weights."""
    place = name.removeprefix("untrained:")
    run, weights = (None, place) if os.path.isfile(place) else (place, None)
    options = {key: getattr(arguments, key) for key in ("size", "device", "workers")}
    return load_encoder(Common(run, weights=weights, untrained=name != place, **options))


def _protocol(study: Study) -> dict:
    arguments, bank, queries = study.arguments, study.bank, study.queries
    count = min(arguments.limit, len(queries.images))
    return {
        "queries": arguments.queries,
        "query_images": len(queries.rows),
        "without_mask": count - len(queries.rows),
        "bank": arguments.bank,
        "bank_images": len(bank.rows),
        "classes": len(bank.images.classes),
        "k": arguments.k,
        **({"k_used": len(bank.rows)} if arguments.k > len(bank.rows) else {}),
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
