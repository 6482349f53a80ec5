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
from evaluate.common import Common, describe, parse, percent, publish, repeat
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


def run(run: str | None = None, data: str = "", **options) -> dict:
    """kNN accuracy of backbone features, and of head features where there is a head; DATA/train is
    the bank, DATA/val the queries.

    Args:
        options: those of Arguments.

    Returns:
        the protocol's parameters, and `accuracy`: top-1 in percent by k ("200"), of head features
        "head 200"; means over seeds, see evaluate.common.repeat.
    """
    args = Arguments(run, data, **options)
    if not args.k or min(args.k) < 1 or args.temperature <= 0:
        raise UsageError("--k must be at least 1 and --temperature above 0")
    return repeat(_one, args)


def _one(args: Arguments, seed: int) -> dict:
    encoder = encoder_of(args, seed)
    train, labels, classes = extract(
        encoder, os.path.join(args.data, "train"), workers=args.workers, keep=args.features
    )
    test, truth, _ = extract(
        encoder,
        os.path.join(args.data, "val"),
        workers=args.workers,
        classes=classes,
        keep=args.features,
    )
    kinds = {"": (train, test)}
    if encoder.head is not None:
        kinds["head "] = tuple(project(encoder.head, x, encoder.device) for x in (train, test))
    accuracy = {}
    for kind, (bank, queries) in kinds.items():
        cosine, row = nearest(bank, queries, max(args.k), encoder.device)
        for k in args.k:
            predicted = vote(cosine, row, labels, k, args.temperature, len(classes))
            accuracy[f"{kind}{k}"] = 100 * float((predicted == truth).mean())
    protocol = {
        "features": "backbone, pooled",
        "head_features": NO_HEAD
        if encoder.head is None
        else f"projection head, {kinds['head '][0].shape[1]} dimensions",
        "similarity": "cosine",
        "crop": encoder.crop,
        "k": list(args.k),
        "temperature": args.temperature,
        "stored": str(train.dtype),
        "train_images": len(train),
        "test_images": len(test),
        "classes": len(classes),
    }
    return args.result("knn", protocol, accuracy=accuracy)


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, "knn", __doc__)
    result = run(**vars(args))
    print(f"kNN ({describe(result['protocol'])})")
    for name in result["accuracy"]:
        kind, k = (
            ("head", name.removeprefix("head ")) if name.startswith("head ") else ("backbone", name)
        )
        print(f"  {kind + ' features':<18} k={k:<4} top-1 {percent(result, name)}")
    publish(result, args)
