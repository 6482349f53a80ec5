"""Weighted k-nearest-neighbour classification of frozen features (Wu et al., CVPR 2018, section 3.4).

    python -m evaluate knn --run RUN --data DATA      # DATA/train/CLASS/... and DATA/val/CLASS/...
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from evaluate.common import Common, describe, parse, publish
from evaluate.features import extract, load_encoder

CHUNK = 1024  # queries at a time: ImageNet's similarity matrix would not fit in memory


@dataclass(frozen=True)
class Arguments(Common):
    """Options of the kNN evaluation."""

    k: tuple[int, ...] = (200, 20)
    """Neighbours; several values give several numbers."""
    temperature: float = 0.07
    """Temperature of the neighbours' weights."""


def knn_predict(train: np.ndarray, labels: np.ndarray, test: np.ndarray, k: int, temperature: float,
                classes: int) -> np.ndarray:
    """The class with the largest sum of exp(cosine / T) over the k nearest training features.

    Args:
        train: (N, D) float32.  labels: (N,) int.  test: (M, D) float32.

    Returns:
        (M,) int64 classes.
    """
    bank, queries = (F.normalize(torch.from_numpy(x), dim=1) for x in (train, test))
    targets = torch.from_numpy(np.asarray(labels, np.int64))
    predicted = []
    for chunk in queries.split(CHUNK):
        similarity, nearest = (chunk @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(chunk), classes)
        votes.scatter_add_(1, targets[nearest], (similarity / temperature).exp())
        predicted.append(votes.argmax(1))
    return torch.cat(predicted).numpy()


def run(run: str, data: str, k: tuple[int, ...] = (200, 20), temperature: float = 0.07, untrained: bool = False,
        device: str = "auto", workers: int = 0) -> dict:
    """kNN accuracy of a run's backbone features, DATA/train as the bank and DATA/val as the queries.

    Returns:
        the protocol's parameters, and `accuracy`: top-1 in percent by k.
    """
    encoder = load_encoder(run, device, untrained)
    train, labels, classes = extract(encoder, os.path.join(data, "train"), workers=workers)
    test, truth, _ = extract(encoder, os.path.join(data, "val"), workers=workers, classes=classes)
    accuracy = {str(n): 100 * float((knn_predict(train, labels, test, n, temperature, len(classes)) == truth).mean())
                for n in k}
    protocol = {"features": "backbone, pooled", "crop": encoder.crop, "k": list(k), "temperature": temperature,
                "train_images": len(train), "test_images": len(test), "classes": len(classes)}
    return {"evaluation": "knn", "run": run, "data": data, "untrained": untrained, "protocol": protocol,
            "accuracy": accuracy}


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, "knn", __doc__)
    result = run(args.run, args.data, args.k, args.temperature, args.untrained, args.device, args.workers)
    print(f"kNN ({describe(result['protocol'])})")
    for k, accuracy in result["accuracy"].items():
        print(f"  k={k:<4} top-1 {accuracy:6.2f} %")
    publish(result, args)
