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

from dataclasses import dataclass
from typing import ClassVar

from data.cli import UsageError, require
from evaluate.common import Common, describe, percent, repeat
from evaluate.features import load_encoder, project, sizes, train_and_val
from train.knn import knn_top1

NO_HEAD = (
    "none: no projection head in the file or the run's checkpoint, so only backbone features are "
    "evaluated"
)


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

    evaluation: ClassVar[str] = "knn"


def evaluate(arguments: Arguments) -> dict:
    """kNN accuracy of backbone features, and of head features where there is a head; DATA/train is
    the bank, DATA/val the queries.

    Returns:
        the protocol's parameters, and `accuracy`: top-1 in percent by k ("200"), of head features
        "head 200"; means over the seeds' networks, since nothing is drawn here: see
        evaluate.common.repeat.
    """
    require(arguments, "temperature", k=1)
    if not arguments.k:
        raise UsageError("--k: give at least one number of neighbours")
    return repeat(arguments, _measure)


def _measure(arguments: Arguments, seed: int) -> dict:
    encoder = load_encoder(arguments, seed)
    data = train_and_val(arguments, encoder)
    kinds, head_features = {"": (data.train, data.val)}, NO_HEAD
    if encoder.head is not None:
        bank, queries = (project(encoder.head, x, encoder.device) for x in (data.train, data.val))
        kinds["head "] = (bank, queries)
        head_features = f"projection head, {bank.shape[1]} dimensions"
    accuracy, options = {}, (arguments.temperature, len(data.classes), encoder.device)
    for kind, (bank, queries) in kinds.items():
        pair = (bank, data.labels), (queries, data.truth)
        top = knn_top1(*pair, arguments.k, *options)
        accuracy |= {f"{kind}{k}": 100 * a for k, a in zip(arguments.k, top, strict=True)}
    bank = len(data.train)
    k_used = {"k_used": [min(k, bank) for k in arguments.k]} if max(arguments.k) > bank else {}
    protocol = {
        "features": "backbone, pooled",
        "head_features": head_features,
        "similarity": "cosine",
        "crop": encoder.crop,
        "k": list(arguments.k),
        **k_used,
        "temperature": arguments.temperature,
        "stored": str(data.train.dtype),
        **sizes(data.train, data.val, data.classes),
    }
    return arguments.result(protocol, accuracy=accuracy)


def lines(result: dict) -> list[str]:
    """The result as it is printed."""
    text = [f"kNN ({describe(result['protocol'])})"]
    bank = result["protocol"]["train_images"]
    for name in result["accuracy"]:
        kind = "head" if name.startswith("head ") else "backbone"
        k = name.removeprefix("head ")
        note = f" (the bank has {bank})" if int(k) > bank else ""
        text.append(f"  {kind + ' features':<18} k={k:<4} top-1 {percent(result, name)}{note}")
    return text
