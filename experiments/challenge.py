"""E2 on photographs: a set like the Backgrounds Challenge's from Imagenette's validation images and
our masks."""

from __future__ import annotations

import json
from pathlib import Path

from data.io import write_text
from data.synthetic.challenge import make
from evaluate.backgrounds import in9
from experiments.jobs import call
from experiments.runner import RESULT
from experiments.settings import SIDE, Data, Row
from train import checkpoint

MASKS = (
    "fusion"  # the best of the estimators that need no weights; not what the rows were trained with
)
IMAGES = 100  # of a class at most


def challenge(rows: dict[str, Row], data: Data, out: Path, images: Path, workers: int = 0) -> None:
    """Add "challenge" (percent by variant, and "bg_gap") to what the finished runs measured; those
    with it are kept.

    The probe is trained on `images`/train. The set lies in `out`/challenge, its masks in
    `out`/masks-MASKS-val.
    """
    files = [
        file
        for row in rows.values()
        for file in sorted((out / row.folder(data)).glob(f"seed*/{RESULT}"))
    ]
    results = {file: json.loads(file.read_text()) for file in files}
    missing = {
        file: result
        for file, result in results.items()
        if "challenge" not in result["measured"] and file.with_name(checkpoint.BACKBONE).exists()
    }  # numbers of another machine's run have no weights
    if not missing:
        return
    source, masks = Path(data.source, "val"), out / f"masks-{MASKS}-val"
    call(
        "preprocess",
        str(source),
        str(masks),
        "--estimator",
        MASKS,
        "--side",
        str(SIDE),
        "--workers",
        "1",
    )
    make(source, masks, out / "challenge", limit=IMAGES)
    for file, result in missing.items():
        found = in9.evaluate(
            in9.Arguments(
                run=str(file.parent),
                data=str(out / "challenge"),
                train=str(images / "train"),
                workers=workers,
            )
        )
        result["measured"]["challenge"] = found["accuracy"]["probe"]
        write_text(file, json.dumps(result, indent=1) + "\n")
