"""What a finished run is worth: nearest neighbours, linear probes and, on the embedded data, other
backgrounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evaluate.backgrounds.variants import PROBES, SPLITS
from evaluate.features import Encoder, extract, load_encoder
from evaluate.probes.knn import nearest
from evaluate.probes.linear import fit_probe
from experiments.settings import Data
from train.knn import vote

K, TEMPERATURE = 200, 0.07  # kNN of the field


def measure(run: Path, data: Data, images: Path, workers: int = 0, untrained: bool = False) -> dict:
    """Numbers of one run, top-1 in percent.

    Returns:
        "knn" (k = 200) and "linear": bank or probe on `train`, asked about `val` (the embedded
        data: `original`); on the embedded data also "backgrounds": {probe: {split or "gap":
            percent}} as evaluate.backgrounds.variants has it.
    """
    encoder = load_encoder(str(run), "auto", untrained)
    train, labels, classes = extract(encoder, str(images / "train"), workers=workers)
    if data.source:
        test, truth, _ = extract(encoder, str(images / "val"), workers=workers, classes=classes)
        return {
            "knn": knn(train, labels, test, truth, len(classes)),
            "linear": fit_probe(train, labels, len(classes)).accuracy(test, truth),
        }
    splits = {s: extract(encoder, str(images / s), classes=classes)[:2] for s in SPLITS}
    backgrounds = _backgrounds(encoder, images, train, labels, classes, splits)
    return {
        "knn": knn(train, labels, *splits["original"], len(classes)),
        "linear": backgrounds["biased"]["original"],
        "backgrounds": backgrounds,
    }


def knn(
    bank: np.ndarray, labels: np.ndarray, queries: np.ndarray, truth: np.ndarray, classes: int
) -> float:
    """Top-1 in percent of weighted nearest neighbours, see evaluate.probes.knn."""
    k = min(K, len(bank))
    predicted = vote(*nearest(bank, queries, k), labels, k, TEMPERATURE, classes)
    return 100 * float((predicted == truth).mean())


def _backgrounds(
    encoder: Encoder,
    images: Path,
    train: np.ndarray,
    labels: np.ndarray,
    classes: list[str],
    splits: dict,
) -> dict:
    found = {}
    for name, folder in PROBES.items():
        features, truth = (
            (train, labels)
            if folder == "train"
            else extract(encoder, str(images / folder), classes=classes)[:2]
        )
        probe = fit_probe(features, truth, len(classes))
        found[name] = {split: probe.accuracy(*of) for split, of in splits.items()}
        found[name]["gap"] = found[name]["mixed_same"] - found[name]["mixed_rand"]
    return found
