"""Average precision: COCO's by faster-coco-eval, and VOC 2007's, which the published VOC tables
were made with."""

from __future__ import annotations

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

THRESHOLDS = np.arange(50, 100, 5) / 100
RECALLS = np.arange(0, 1.1, 0.1)


def coco_ap(truth: dict, detections: list[dict], kind: str = "bbox") -> dict:
    """COCO's AP in percent: {"AP", "AP50", "AP75", "per_class": {name: AP}}.

    Args:
        truth: COCO's form, see annotations.Annotated; a class without objects is left out of the
            mean.
        detections: image_id, category_id, score, bbox [x, y, w, h] and, for kind "segm",
            segmentation (run lengths).
    """
    names = {c["id"]: c["name"] for c in truth["categories"]}
    counted = {a["category_id"] for a in truth["annotations"] if not a["iscrowd"]}
    if not detections:  # the library has nothing to index then
        return {
            "AP": 0.0,
            "AP50": 0.0,
            "AP75": 0.0,
            "per_class": {names[c]: 0.0 for c in names if c in counted},
        }
    # entries are copied: the library adds to them
    reference = COCO({key: [dict(entry) for entry in entries] for key, entries in truth.items()})
    judge = COCOeval_faster(
        reference,
        reference.loadRes([dict(d) for d in detections]),
        kind,
        print_function=lambda *_: None,
    )
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    precision = judge.eval["precision"][
        ..., 0, -1
    ]  # (thresholds, recalls, classes): all areas, most detections
    per_class = {
        names[c]: 100 * float(precision[..., i].mean())
        for i, c in enumerate(judge.params.catIds)
        if c in counted
    }
    return {
        **{
            key: 100 * float(value)
            for key, value in zip(("AP", "AP50", "AP75"), judge.stats, strict=False)
        },
        "per_class": per_class,
    }


def voc07_ap(truth: dict, detections: list[dict]) -> dict:
    """VOC 2007's AP (the mean of the best precision at recalls 0, 0.1 ... 1), in percent.

    {"AP" over overlaps 0.5 to 0.95, "AP50", "AP75", "per_class": {name: AP50}}. A detection is
    judged against the box that it overlaps most, and only the best-scored one of a box is right;
    pixels are counted inclusively (the VOC devkit's VOCevaldet.m, and detectron2 for VOC 2007). A
    class without objects is left out of the mean.
    """
    found = {}
    for category in truth["categories"]:
        objects = [a for a in truth["annotations"] if a["category_id"] == category["id"]]
        if any(not a["iscrowd"] for a in objects):
            found[category["name"]] = _class_ap(
                objects, [d for d in detections if d["category_id"] == category["id"]]
            )
    aps = 100 * np.array(list(found.values()))
    mean = aps.mean(0)
    return {
        "AP": float(mean.mean()),
        "AP50": float(mean[0]),
        "AP75": float(mean[5]),
        "per_class": dict(zip(found, aps[:, 0].tolist(), strict=True)),
    }


def _class_ap(objects: list[dict], detections: list[dict]) -> np.ndarray:
    """(10,) AP of one class at each threshold, 0..1."""
    by_image: dict[int, list[int]] = {}
    for place, a in enumerate(objects):
        by_image.setdefault(a["image_id"], []).append(place)
    boxes = np.array([a["bbox"] for a in objects], float)
    difficult = np.array([bool(a["iscrowd"]) for a in objects])
    detections = sorted(detections, key=lambda d: -d["score"])
    best = np.full(len(detections), -1)  # place of the box that each overlaps most
    overlap = np.zeros(len(detections))
    for i, d in enumerate(detections):
        places = by_image.get(d["image_id"])
        if places:
            found = _overlaps(np.array(d["bbox"], float), boxes[places])
            best[i], overlap[i] = places[int(found.argmax())], found.max()
    result = np.zeros(len(THRESHOLDS))
    for t, threshold in enumerate(THRESHOLDS):
        hit = np.flatnonzero(overlap > threshold)
        easy = hit[~difficult[best[hit]]]
        right = np.zeros(len(detections))
        right[easy[np.unique(best[easy], return_index=True)[1]]] = (
            1  # the first of each box, scores descending
        )
        wrong = 1 - right
        wrong[hit[difficult[best[hit]]]] = 0
        right, wrong = right.cumsum(), wrong.cumsum()
        recall, precision = right / (~difficult).sum(), right / np.maximum(right + wrong, 1)
        result[t] = np.mean([precision[recall >= r].max(initial=0) for r in RECALLS])
    return result


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) intersection over union of [x, y, w, h] with (N, 4), in the devkit's inclusive pixels.

    The devkit's boxes are (x + 1, y + 1, x + w, y + h), and their sides xmax - xmin + 1: w and h.
    """
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])
    inner = np.maximum(high - low, 0).prod(1)
    return inner / (box[2:].prod() + others[:, 2:].prod(1) - inner)
