"""Scores of the masks that rows are trained with: against true masks on the embedded data, of their
estimator on ECSSD for photographs, and what storing them small loses."""

from pathlib import Path

import numpy as np

from data.cache.reader import Cache
from data.cli import UsageError
from data.parallel import cpus
from data.resize import resize
from data.sources.images import decode, list_images, read_bytes
from evaluate.masks import saliency
from evaluate.masks.agreement import agreement
from experiments.rows import SIDE, real_data
from experiments.runner import Study, squash
from preprocess.estimators import load
from train.masks import ellipse_like, shuffled_rows

Scores = dict[str, float]
SHUFFLE_SEED = 0
FIDELITY_IMAGES = 250


def mask_scores(study: Study, known: dict[str, Scores]) -> dict[str, Scores]:
    """Label -> scores of the row's masks: the known ones, and those that can be computed here.

    E1: "MAE" (0..1) with "IoU" (embedded) or "maxF" (ECSSD's odd numbers); controls are scored as
    the masks that they paste by, and left out on ECSSD, which no run sees. E5: see `fidelity`.
    """
    scores = dict(known)
    truth = study.out / f"masks-truth-{SIDE}"
    for label, row in study.rows.items():
        if label in known or row.masks == "none":
            continue
        cache, control = study.cache(row), dict(row.options).get("control", "none")
        computed = study.table == "e1" and (cache / "cache.json").exists()
        if study.table == "e5" and real_data("ecssd").is_dir():
            scores[label] = fidelity(row.side)
        elif computed and study.data.source and control == "none":
            scores[label] = on_ecssd(row.masks, study.out)
        elif computed and (truth / "cache.json").exists():
            scores[label] = against_truth(Cache(cache), Cache(truth), control)
    return scores


def against_truth(masks: Cache, truth: Cache, control: str) -> Scores:
    """Mean absolute error and mean IoU at half of the masks that a control pastes by, against true
    ones."""
    rows = masks.require(truth.paths)
    if control == "shuffled":
        rows = shuffled_rows(rows, SHUFFLE_SEED)
    pasted = (masks.mask(row) for row in rows.tolist())
    if control == "ellipse":
        pasted = map(ellipse_like, pasted)
    found = agreement((mask, truth.mask(index)) for index, mask in enumerate(pasted))
    return {"MAE": found["mae"], "IoU": found["iou"]}


def on_ecssd(estimator: str, out: Path) -> Scores:
    """An estimator's scores on ECSSD's odd numbers, squashed to 128 px as Imagenette's images are.

    Raises:
        UsageError: ECSSD is not there.
    """
    source, small = real_data("ecssd"), out / f"ecssd-{SIDE}"
    if not (source / "images").is_dir():
        raise UsageError(
            f"{source}: no ECSSD there; set DILO_SHARED to the folder whose data/ecssd holds it"
        )
    for kind in ("images", "masks"):
        squash(source / kind, small / kind, SIDE, ".png")
    folders = (str(small / "images"), str(small / "masks"))
    options = {"half": "odd", "examples": 0, "workers": cpus()}
    arguments = saliency.Arguments(*folders, estimator=estimator, **options)
    found = saliency.evaluate(arguments)["estimators"][estimator]
    return {"MAE": found["mae"], "maxF": found["max_f_a"]}


def fidelity(side: int) -> Scores:
    """What storing masks at side x side loses, on ECSSD's even numbers.

    Returns:
        "lost": mean absolute difference (0..1) of RBD's maps after the round trip; "IoU": of true
        masks after it, at half.
    """
    images, masks = (real_data("ecssd") / kind for kind in ("images", "masks"))
    even = [name for name in list_images(images).tolist() if int(name.split(b".")[0]) % 2 == 0]
    estimator, lost, pairs = load("rbd"), [], []
    for name in even[:: -(-len(even) // FIDELITY_IMAGES)]:
        saliency_map = estimator(decode(read_bytes(images, name)))
        truth = decode(read_bytes(masks, name.replace(b".jpg", b".png")))[..., 0] >= 128
        lost.append(np.abs(round_trip(saliency_map, side) - saliency_map).mean())
        back = round_trip(truth.astype(np.float32), side) >= 0.5
        pairs.append((np.uint8(255) * back, np.uint8(255) * truth))
    return {"lost": float(np.mean(lost)), "IoU": agreement(pairs)["iou"]}


def round_trip(saliency_map: np.ndarray, side: int) -> np.ndarray:
    """An (H, W) float32 map in [0, 1], stored as a cache stores it, (side, side) uint8, and brought
    back to (H, W)."""
    stored = np.rint(resize(saliency_map, side, side) * 255).astype(np.uint8)
    height, width = saliency_map.shape
    return resize(stored.astype(np.float32) / 255, width, height)
