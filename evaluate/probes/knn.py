"""Weighted k-nearest-neighbour classification of frozen features (Wu et al., CVPR 2018, section
3.4).

    python -m evaluate knn --run RUN --data DATA      # DATA/train/CLASS/... and DATA/val/CLASS/...
    python -m evaluate knn --weights moco_v2_200ep.pth.tar --data /data/imagenet --workers 16

The nearest are found a block of the bank and of the queries at a time, so that ImageNet fits in 8
GB. With a ResNet-50: the bank, 1,281,167 x 2,048 as float16, is a 5.2 GB memory-mapped file, of
which one block of 32,768 rows is in memory as float32 (0.27 GB, and as much again while it is
normalised); 50,000 queries as float32 (0.41 GB) and normalised (0.41 GB); a block's 2,048 x 32,768
similarities (0.27 GB); the 200 nearest of every query, 12 bytes each (0.12 GB):
1.8 GB, and 2.7 GB for the whole process as `make bench-evaluate` measures it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from data.cli import UsageError
from evaluate.common import Common, describe, percent, repeat
from evaluate.features import encoder_of, extract, project
from train.knn import nearest, vote

NO_HEAD = "none: no projection head in the file or the run's checkpoint, so only backbone features are evaluated"


@dataclass(frozen=True)
class Arguments(Common):
    """Options of the kNN evaluation."""

    k: tuple[int, ...] = (200, 20)
    """Neighbours; several values give several numbers."""
    temperature: float = 0.07
    """Temperature of the neighbours' weights, exp(cosine / temperature)."""
    features: str | None = None
    """Folder that keeps the features (float16) for the next evaluation of the same network and
    images."""

    @property
    def evaluation(self) -> str:
        return "knn"


def evaluate(arguments: Arguments) -> dict:
    """kNN accuracy of backbone features, and of head features where there is a head; DATA/train is
    the bank, DATA/val the queries.

    Returns:
        the protocol's parameters, and `accuracy`: top-1 in percent by k ("200"), of head features
        "head 200"; means over the seeds' networks, since nothing is drawn here: see
        evaluate.common.repeat.
    """
    if not arguments.k or min(arguments.k) < 1 or arguments.temperature <= 0:
        raise UsageError("--k must be at least 1 and --temperature above 0")
    return repeat(arguments, _measure, draws=False)


def _measure(arguments: Arguments, seed: int) -> dict:
    encoder = encoder_of(arguments, seed)
    bank_folder, query_folder = (os.path.join(arguments.data, name) for name in ("train", "val"))
    options = {"workers": arguments.workers, "keep": arguments.features}
    bank, labels, classes = extract(encoder, bank_folder, **options)
    queries, truth, _ = extract(encoder, query_folder, classes=classes, **options)
    kinds = {"": (bank, queries)}
    head_features = NO_HEAD
    if encoder.head is not None:
        projected = [project(encoder.head, x, encoder.device) for x in (bank, queries)]
        kinds["head "] = tuple(projected)
        head_features = f"projection head, {projected[0].shape[1]} dimensions"
    accuracy = {}
    for kind, (rows, tests) in kinds.items():
        cosine, neighbours = nearest(rows, tests, max(arguments.k), encoder.device)
        for k in arguments.k:
            predicted = vote(cosine, neighbours, labels, k, arguments.temperature, len(classes))
            accuracy[f"{kind}{k}"] = 100 * float((predicted == truth).mean())
    protocol = {
        "features": "backbone, pooled",
        "head_features": head_features,
        "similarity": "cosine",
        "crop": encoder.crop,
        "k": list(arguments.k),
        "temperature": arguments.temperature,
        "stored": str(bank.dtype),
        "train_images": len(bank),
        "test_images": len(queries),
        "classes": len(classes),
    }
    return arguments.result(protocol, accuracy=accuracy)


def lines(result: dict) -> list[str]:
    """The result as it is printed."""
    text = [f"kNN ({describe(result['protocol'])})"]
    for name in result["accuracy"]:
        kind = "head" if name.startswith("head ") else "backbone"
        k = name.removeprefix("head ")
        text.append(f"  {kind + ' features':<18} k={k:<4} top-1 {percent(result, name)}")
    return text
