"""Does the network look at the object? Accuracy as the background changes (Xiao et al., ICLR 2021).

    python -m evaluate backgrounds --run RUN --data DATA

DATA holds train/ (background goes with the class), probe/ (it does not), and the test splits
original/ mixed_same/ mixed_rand/ only_fg/ only_bg/, each CLASS/image: what `python -m data
synthetic` makes. A linear probe is trained on train/ and one on probe/; the gap is mixed_same -
mixed_rand: what a background of the own class adds. Nothing is drawn: seeds repeat over networks.
"""

import os
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from data.cli import require
from evaluate.common import Common, aligned, describe, repeat
from evaluate.features import extract, load_encoder
from evaluate.probes.linear import L2, fit_probe
from train.features import Labelled

SPLITS = ("original", "mixed_same", "mixed_rand", "only_fg", "only_bg")
PROBES = {"biased": "train", "unbiased": "probe"}  # probe -> the folder that it is trained on


@dataclass(frozen=True)
class Arguments(Common):
    """Options of the backgrounds evaluation."""

    l2: float = L2
    """Weight of the squared norm of the probes (on standardised features)."""

    evaluation: ClassVar[str] = "backgrounds"
    folders: ClassVar[tuple[str, ...]] = (*PROBES.values(), *SPLITS)


def evaluate(arguments: Arguments) -> dict:
    """Accuracy on each split and the gap, for the probe trained on biased and the one trained on
    unbiased images.

    Returns:
        the protocol's parameters, and `accuracy`: {probe: {split or "gap": percent}}; means over
        the seeds' networks, since nothing is drawn here: see evaluate.common.repeat.
    """
    require(arguments, l2=0)
    return repeat(arguments, _measure)


def _measure(arguments: Arguments, seed: int) -> dict:
    encoder = load_encoder(arguments, seed)
    probes, counts, classes = {}, {}, None

    def read(folder: str) -> tuple[Labelled, np.ndarray]:
        images = Labelled(os.path.join(arguments.data, folder), encoder.size, classes)
        return images, extract(encoder, images)

    for name, folder in PROBES.items():
        images, features = read(folder)
        classes = images.classes
        probes[name] = fit_probe(features, images.labels, len(classes), arguments.l2)
        counts[f"{name}_probe_images"] = len(images)
    accuracy: dict[str, dict[str, float]] = {name: {} for name in PROBES}
    for split in SPLITS:
        images, features = read(split)
        counts[f"{split}_images"] = len(images)
        for name, probe in probes.items():
            accuracy[name][split] = probe.accuracy(features, images.labels)
    for values in accuracy.values():
        values["gap"] = values["mixed_same"] - values["mixed_rand"]
    protocol = {
        "features": "backbone, pooled, standardised",
        "crop": encoder.crop,
        "solver": "L-BFGS",
        "l2": arguments.l2,
        "classes": len(classes),
        **counts,
    }
    return arguments.result(protocol, accuracy=accuracy)


def lines(result: dict) -> list[str]:
    """The result as it is printed."""
    rows = result["accuracy"] | {f"± {k}": v for k, v in result.get("deviation", {}).items()}
    table = {f"  {k}": {c: f"{x:.2f}" for c, x in v.items()} for k, v in rows.items()}
    return [f"backgrounds ({describe(result['protocol'])})", *aligned(table)]
