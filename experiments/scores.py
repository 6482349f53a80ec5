"""What the masks of a row are worth: on the embedded data against the true ones, else by its
estimator on ECSSD."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2

from data.cache.reader import Cache
from data.cli import UsageError
from data.io import write_text
from data.sources.images import decode, list_images, read_bytes
from evaluate.masks.agreement import agreement
from evaluate.masks.saliency import run as score
from experiments.runner import impossible
from experiments.settings import Data, Row
from train.masks import ellipse_like, shuffled_rows

SEED = 0  # of the shuffling that is scored


def scores(rows: dict[str, Row], data: Data, out: Path) -> dict[str, dict[str, float]]:
    """Label -> {"MAE": 0..1, "IoU" (embedded) or "maxF" (ECSSD's odd numbers)}, of the rows that
    have masks.

    Controls are scored as the masks that they paste by; on ECSSD, which no run sees, they are left
    out.
    """
    found = {}
    for label, row in rows.items():
        control = dict(row.options).get("control", "none")
        cache = out / f"masks-{row.masks}-{row.side}"
        if row.masks == "none" or not (cache / "cache.json").exists():
            continue
        if data.name == "embedded":
            truth = out / "masks-truth-128"
            if (truth / "cache.json").exists() and row.side == 128:
                found[label] = against_truth(Cache(cache), Cache(truth), control)
        elif control == "none" and not impossible(row):
            found[label] = on_ecssd(row.masks, out)
    return found


def against_truth(masks: Cache, truth: Cache, control: str) -> dict[str, float]:
    """Mean absolute error and mean IoU at half of the masks that a control pastes by, against true
    ones."""
    rows = masks.require(truth.paths)
    if control == "shuffled":
        rows = shuffled_rows(rows, SEED)
    pairs = ((masks.mask(row), truth.mask(i)) for i, row in enumerate(rows.tolist()))
    found = agreement(
        (ellipse_like(mine) if control == "ellipse" else mine, right) for mine, right in pairs
    )
    return {"MAE": found["mae"], "IoU": found["iou"]}


def on_ecssd(estimator: str, out: Path) -> dict[str, float]:
    """The estimator on ECSSD's odd numbers, squashed to 128 px as Imagenette's images are; kept
    beside the runs."""
    file = out / f"ecssd-{estimator}.json"
    if not file.exists():
        small = small_ecssd(out)
        found = score(str(small / "images"), str(small / "masks"), (estimator,), half="odd")[
            "estimators"
        ][estimator]
        write_text(file, json.dumps({"MAE": found["mae"], "maxF": found["max_f_a"]}) + "\n")
    return json.loads(file.read_text())


def small_ecssd(out: Path, side: int = 128) -> Path:
    """ECSSD with images and masks squashed to `side`, made once. UsageError where it is not
    there."""
    source = Path(os.environ.get("DILO_SHARED", "../shared"), "data", "ecssd")
    if not (source / "images").is_dir():
        raise UsageError(
            f"{source}: no ECSSD there; set DILO_SHARED to the folder whose data/ecssd holds it"
        )
    small = out / f"ecssd-{side}"
    if not (small / "done").exists():
        for kind in ("images", "masks"):
            (small / kind).mkdir(parents=True, exist_ok=True)
            for name in list_images(str(source / kind)).tolist():
                picture = cv2.resize(
                    decode(read_bytes(str(source / kind), name)),
                    (side, side),
                    interpolation=cv2.INTER_AREA,
                )
                file = small / kind / Path(name.decode()).with_suffix(".png")
                if not cv2.imwrite(
                    str(file), picture[..., ::-1] if kind == "images" else picture[..., 0]
                ):
                    raise OSError(f"{file}: could not be written; is the disk full?")
        write_text(small / "done", "")
    return small
