"""Numbers of a finished run: nearest neighbours, linear probes and, on the embedded data, other
backgrounds."""

from pathlib import Path
from typing import Any

from evaluate.backgrounds import variants
from evaluate.common import Common
from evaluate.features import extract, load_encoder
from evaluate.probes.linear import fit_probe
from experiments.rows import Data
from train.features import Labelled
from train.knn import knn_top1

K = 200  # the field's usual kNN
TEMPERATURE = 0.07


def measure(
    run: Path, data: Data, images: Path, workers: int = 0, untrained: bool = False
) -> dict[str, Any]:
    """Numbers of one run, top-1 in percent.

    Returns:
        "knn" (k = 200) and "linear": bank or probe on `train`, evaluated on `val` (the embedded
        data: `original`); on the embedded data also "backgrounds": {probe: {split or "gap":
        percent}} as evaluate.backgrounds.variants has it.
    """
    options = {"run": str(run), "untrained": untrained, "workers": workers}
    encoder = load_encoder(Common(**options))
    test = images / ("val" if data.source else "original")
    train = Labelled(str(images / "train"), encoder.size)
    val = Labelled(str(test), encoder.size, train.classes)
    bank, queries = (extract(encoder, part) for part in (train, val))
    pair, classes = ((bank, train.labels), (queries, val.labels)), len(train.classes)
    numbers = {"knn": 100 * knn_top1(*pair, (K,), TEMPERATURE, classes)[0]}
    if data.source:
        probe = fit_probe(bank, train.labels, classes)
        return numbers | {"linear": probe.accuracy(queries, val.labels)}
    backgrounds = variants.evaluate(variants.Arguments(data=str(images), **options))["accuracy"]
    return numbers | {"linear": backgrounds["biased"]["original"], "backgrounds": backgrounds}
