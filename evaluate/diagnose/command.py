"""Does the network look at the object? (the paper's question) Several runs on the same images.

    python -m evaluate diagnose --runs RUN RUN --data DATA                  # DATA of `python -m
    data synthetic`
    python -m evaluate diagnose --runs RUN RUN --data DATA --masks caches/val --bank-masks
    caches/train

From Python, for a table:
    from evaluate.diagnose.command import run
    numbers = run(["runs/baseline", "runs/dilo"], "DATA", masks="caches/val",
    bank_masks="caches/train")["runs"] numbers["runs/dilo"]["accuracy"]    # {"pointing", "share",
    "iou", "same_background", ...}, percent

Heat maps say where the kNN decision and a linear one come from; against the masks: the share of
their mass on the object, the pointing game, IoU. Wrong nearest neighbours are split by whether they
share the query's background rather than its object, both judged by the features of the first run
for all runs, with the object filled in, or alone. Nothing is random. The JSON, the figure beside
it, and RUN/diagnose.json of each run (for `make report`) are written.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from tqdm import tqdm

from data.cli import UsageError
from data.io import write_text
from evaluate.common import describe
from evaluate.diagnose import heat, looks, neighbours, splits
from evaluate.diagnose.splits import Split
from evaluate.features import Encoder, batches, extract_from, load_encoder
from evaluate.probes.knn import nearest
from evaluate.probes.linear import L2, fit_probe
from train.knn import vote

BATCH = 64
SHOWN = ("share", "pointing", "iou", "same_background", "background_rather")


@dataclass(frozen=True)
class Arguments:
    """Options of the diagnosis."""

    runs: tuple[str, ...] = ()
    """Run folders (or files of weights) to compare; `untrained:RUN` is a run's network with its
    first weights. The first one's features judge backgrounds and objects."""
    data: str = ""
    """Folder of the data set: the bank below it in train/, the queries in val/."""
    masks: str | None = None
    """Masks of the queries: a cache, or a folder of grey PNGs (default: DATA/masks where there is
    one)."""
    bank_masks: str | None = None
    """Masks of the bank, for the wrong neighbours (default: DATA/masks where there is one, else
    they are left out)."""
    queries: str | None = None
    """Folder of the queries below DATA (default: val, or original for the embedded data)."""
    bank: str = "train"
    """Folder of the neighbours below DATA; the linear decision is fitted on it too."""
    k: int = 20
    """Neighbours that vote."""
    temperature: float = 0.07
    """Temperature of their weights, exp(cosine / temperature)."""
    limit: int = 1000
    """Queries at most, evenly spaced over the folder."""
    stage: int | None = None
    """Stage whose resolution the maps have, 1 to 4 (default: the last one of at least 4x4)."""
    size: int | None = None
    """Side of the images given to the networks, in pixels (default: each run's own)."""
    l2: float = L2
    """Weight of the squared norm of the linear classifier (on standardised features)."""
    examples: int = 6
    """Rows of the figure; 0 draws none."""
    device: str = "auto"
    """cuda, cpu, or auto."""
    workers: int = 0
    """Processes that decode."""
    json: str = "runs/diagnose.json"
    """File for the numbers; the figure lies beside it, as .png."""

    def check(self) -> None:
        """UsageError where options are missing or do not fit together."""
        if not self.runs or not self.data:
            raise UsageError("give --runs RUN [RUN ...] and --data DIR")
        if len(set(self.runs)) < len(self.runs):
            raise UsageError("--runs names the same run twice")
        if (
            self.k < 1
            or self.temperature <= 0
            or self.limit < 1
            or self.workers < 0
            or self.examples < 0
        ):
            raise UsageError(
                "--k and --limit must be at least 1, --temperature above 0, the others not negative"
            )


def run(runs: Sequence[str] = (), data: str = "", keep_maps: bool = False, **options) -> dict:
    """Diagnose several networks on the same images.

    Args:
        keep_maps: also give the first --examples queries' pictures under "pictures" (not for a
            JSON): what the figure shows.
        options: those of Arguments.

    Returns:
        "protocol"; "chance": what a map that knows nothing would have; "runs": {run: {"accuracy":
        the main numbers, all percent (`pointing`, `share`, `iou`: of the kNN decision's Grad-CAM;
        `same_background`, `background_rather`: of wrong neighbours; `knn`, `linear`: top-1),
        "maps": {"knn" or "linear": {method: looks.percent}}, "neighbours": neighbours.split and, on
        the embedded data, neighbours.known}}.

    Raises:
        UsageError: a run, folder or mask that is missing or does not fit.
    """
    args = Arguments(tuple(runs), data, **options)
    args.check()
    embedded = splits.embedded_description(args.data)
    queries = args.queries or (
        "original" if embedded and not os.path.isdir(os.path.join(args.data, "val")) else "val"
    )
    args = replace(
        args,
        queries=queries,
        masks=splits.masks_of(args.masks, args.data),
        bank_masks=splits.masks_of(args.bank_masks, args.data),
    )
    if args.masks is None:
        raise UsageError(
            "give --masks CACHE: the masks of the queries, made by `python -m preprocess "
            f"{os.path.join(args.data, queries)} CACHE`"
        )
    ruler, found, pictures, protocol = None, {}, {}, {}
    for name in args.runs:
        encoder = _encoder(name, args)
        bank, asked = splits.bank_and_queries(args, encoder.size)
        if args.bank_masks and ruler is None:
            ruler = {
                cut: [
                    np.asarray(extract_from(encoder, part.parts(cut), workers=args.workers))
                    for part in (bank, asked)
                ]
                for cut in ("background", "object")
            }
        stage, side = heat.stage_of(encoder, args.stage)
        found[name], shown = _one(args, encoder, bank, asked, stage, ruler, embedded)
        masks = shown.pop("masks")
        pictures[name] = shown
        protocol.setdefault("maps_at", {})[name] = f"{stage}, {side}x{side}, of {encoder.size} px"
    protocol = {
        "queries": queries,
        "query_images": len(asked.rows),
        "without_mask": splits.without_mask(args, asked),
        "bank": args.bank,
        "bank_images": len(bank.rows),
        "classes": len(bank.images.classes),
        "k": args.k,
        "temperature": args.temperature,
        "knn_map": "log of the decided class's vote",
        "linear_map": "decided logit less the mean, L-BFGS on standardised features",
        "l2": args.l2,
        "masks": args.masks,
        "bank_masks": args.bank_masks,
        "ruler": args.runs[0],
        "shares_background": f"among the {neighbours.NEAR:.0%} of the bank nearest by it",
        "random": "nothing",
        **protocol,
    }
    result = {
        "evaluation": "diagnose",
        "data": args.data,
        "protocol": protocol,
        "chance": looks.chance(masks),
        "runs": _plain(found),
    }
    return {**result, "pictures": pictures} if keep_maps else result


def _one(
    args: Arguments,
    encoder: Encoder,
    bank: Split,
    asked: Split,
    stage: str,
    ruler: dict | None,
    embedded: dict | None,
) -> tuple[dict, dict]:
    """One run's numbers, and what its columns of the figure show."""
    features, tests = (
        np.asarray(extract_from(encoder, part.parts(), workers=args.workers), np.float32)
        for part in (bank, asked)
    )
    classes = len(bank.images.classes)
    cosine, rows = nearest(features, tests, args.k, encoder.device)
    decided = {"knn": vote(cosine, rows, bank.labels, args.k, args.temperature, classes)}
    probe = fit_probe(features, bank.labels, classes, args.l2)
    decided["linear"] = probe.scores(tests).argmax(1)
    masks = asked.parts().crops_of_masks()
    normal, labels = F.normalize(torch.from_numpy(features), dim=1), torch.from_numpy(bank.labels)
    maps: dict[str, dict[str, list]] = {
        kind: {method: [] for method in heat.METHODS} for kind in decided
    }
    at = 0
    for crops in tqdm(
        batches(asked.parts(), args.workers, encoder.device, BATCH),
        desc="heat maps",
        unit="batch",
        leave=False,
    ):
        part = slice(at, at + len(crops))
        at += len(crops)
        chosen = {kind: torch.from_numpy(classes_of[part]) for kind, classes_of in decided.items()}
        near = torch.unique(rows[part])  # only these rows of the bank go to the device
        scores = {
            "knn": heat.knn_score(
                normal[near].to(encoder.device),
                labels[near].to(encoder.device),
                torch.searchsorted(near, rows[part]).to(encoder.device),
                chosen["knn"].to(encoder.device),
                args.temperature,
            ),
            "linear": heat.linear_score(probe, chosen["linear"].to(encoder.device), encoder.device),
        }
        for kind, score in scores.items():
            for method, values in heat.heat(encoder, crops, score, stage).items():
                maps[kind][method].append(values)
    whole = {
        kind: {method: np.concatenate(parts) for method, parts in methods.items()}
        for kind, methods in maps.items()
    }
    numbers = {
        kind: {
            method: looks.percent(looks.looks(values, masks)) for method, values in methods.items()
        }
        for kind, methods in whole.items()
    }
    wrong = np.flatnonzero(bank.labels[rows[:, 0].numpy()] != asked.labels)
    split = {"nearest_wrong": len(wrong), "queries": len(asked.rows)}
    if ruler is not None:
        chosen = rows[wrong, 0].numpy()
        by = {
            cut: neighbours.ranks(values[0], values[1][wrong], chosen)
            for cut, values in ruler.items()
        }
        split |= neighbours.split(by["background"], by["object"])
        if embedded:
            own, others = (
                [splits.background_kind(which, i, embedded) for i in some]
                for which, some in ((asked, wrong.tolist()), (bank, range(len(bank.rows))))
            )
            split |= neighbours.known(
                own, others, chosen, by["background"], asked.labels[wrong], bank.labels
            )
    main = numbers["knn"]["gradcam"]
    accuracy = {
        **{name: main[name] for name in ("share", "pointing", "iou")},
        **{
            name: split[name]
            for name in ("same_background", "background_rather", "known_same_background")
            if name in split
        },
        **{kind: 100 * float((values == asked.labels).mean()) for kind, values in decided.items()},
    }
    count = (
        np.linspace(0, len(asked.rows) - 1, min(args.examples, len(asked.rows))).round().astype(int)
    )
    return {"accuracy": accuracy, "maps": numbers, "neighbours": split}, {
        "images": [asked.parts()[int(i)] for i in count],
        "object": masks[count],
        "masks": masks,
        "right": {kind: (values == asked.labels)[count] for kind, values in decided.items()},
        "maps": {kind: methods["gradcam"][count] for kind, methods in whole.items()},
    }


def _encoder(name: str, args: Arguments) -> Encoder:
    place = name.removeprefix("untrained:")
    weights = os.path.isfile(place)
    return load_encoder(
        None if weights else place,
        args.device,
        name != place,
        place if weights else None,
        size=args.size,
    )


def _plain(values):
    """For a JSON: None where a number does not exist."""
    if isinstance(values, dict):
        return {key: _plain(value) for key, value in values.items()}
    return None if isinstance(values, float) and math.isnan(values) else values


def show(result: dict) -> str:
    """The main numbers as text, a run a line."""
    names = [
        name for name in SHOWN if any(name in r["accuracy"] for r in result["runs"].values())
    ] + ["knn", "linear"]
    width = max(len(name) for name in (*result["runs"], "chance"))
    lines = [" " * width + "".join(f"{name:>18}" for name in names)]
    lines += [
        f"{run:<{width}}"
        + "".join(
            "                 -"
            if values["accuracy"].get(name) is None
            else f"{values['accuracy'][name]:18.2f}"
            for name in names
        )
        for run, values in result["runs"].items()
    ]
    chance = {
        **result["chance"],
        "same_background": 100 * neighbours.NEAR,
        "background_rather": 50.0,
    }
    lines.append(
        f"{'chance':<{width}}"
        + "".join(
            f"{chance[name]:18.2f}" if name in chance else "                 -" for name in names
        )
    )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    args = tyro.cli(Arguments, args=argv, prog="python -m evaluate diagnose", description=__doc__)
    result = run(keep_maps=True, **asdict(args))
    pictures = result.pop("pictures")
    print(f"diagnose ({describe(result['protocol'])})")
    print(show(result))
    path = Path(args.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [path]
    write_text(path, json.dumps(result, indent=2) + "\n")
    for name, values in result["runs"].items():
        if os.path.isdir(name):
            written.append(Path(name, "diagnose.json"))
            write_text(
                written[-1],
                json.dumps(
                    {
                        "evaluation": "diagnose",
                        "run": name,
                        "data": args.data,
                        "protocol": result["protocol"],
                        **values,
                    },
                    indent=2,
                )
                + "\n",
            )
    if args.examples:
        from evaluate.diagnose.figure import draw  # matplotlib only where a figure is wanted

        written.append(path.with_suffix(".png"))
        draw(pictures, written[-1])
    print("written: " + ", ".join(map(str, written)))
