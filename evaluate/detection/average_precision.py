"""Average precision: COCO's by faster-coco-eval, and VOC 2007's, which the published VOC tables
were made with."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask

THRESHOLDS = np.arange(50, 100, 5) / 100
RECALLS = np.arange(0, 1.1, 0.1)


class AveragePrecision(TypedDict):
    """In percent; a class without objects is left out of the means."""

    AP: float
    AP50: float
    AP75: float
    per_class: dict[str, float]


def coco_ap(
    truth: dict[str, list[dict]], detections: list[dict], kind: str = "bbox"
) -> AveragePrecision:
    """COCO's AP; `per_class` is AP.

    Args:
        truth: as annotations.AnnotatedImages.
        detections: image_id, category_id, score, bbox [x, y, w, h] and, for kind "segm",
            segmentation (run lengths).
    """
    counted = {a["category_id"] for a in truth["annotations"] if not a["iscrowd"]}
    names = {c["id"]: c["name"] for c in truth["categories"] if c["id"] in counted}
    if not detections:  # the library has nothing to index then
        per_class = dict.fromkeys(names.values(), 0.0)
        return AveragePrecision(AP=0.0, AP50=0.0, AP75=0.0, per_class=per_class)
    # entries are copied: the library adds to them
    reference = COCO({key: [dict(entry) for entry in entries] for key, entries in truth.items()})
    results = reference.loadRes([dict(d) for d in detections])
    evaluation = COCOeval_faster(reference, results, kind, print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    # (thresholds, recalls, classes): of all areas, and of the most detections
    precision = evaluation.eval["precision"][..., 0, -1]
    ap, ap50, ap75 = (100 * float(value) for value in evaluation.stats[:3])
    per_class = {
        names[c]: 100 * float(precision[..., i].mean())
        for i, c in enumerate(evaluation.params.catIds)
        if c in names
    }
    return AveragePrecision(AP=ap, AP50=ap50, AP75=ap75, per_class=per_class)


def voc07_ap(truth: dict[str, list[dict]], detections: list[dict]) -> AveragePrecision:
    """VOC 2007's AP (the mean of the best precision at recalls 0, 0.1 ... 1); AP over overlaps 0.5
    to 0.95; `per_class` is AP50.

    A detection is judged against the box that it overlaps most, and only the best-scored one of a
    box is right; pixels are counted inclusively (the VOC devkit's VOCevaldet.m, and detectron2 for
    VOC 2007).
    """
    per_class = {}
    for category in truth["categories"]:
        objects = [a for a in truth["annotations"] if a["category_id"] == category["id"]]
        if any(not a["iscrowd"] for a in objects):
            own = [d for d in detections if d["category_id"] == category["id"]]
            per_class[category["name"]] = _class_ap(objects, own)
    aps = 100 * np.array(list(per_class.values()))
    mean = aps.mean(0)
    return AveragePrecision(
        AP=float(mean.mean()),
        AP50=float(mean[0]),
        AP75=float(mean[5]),
        per_class=dict(zip(per_class, aps[:, 0].tolist(), strict=True)),
    )


def _class_ap(objects: list[dict], detections: list[dict]) -> np.ndarray:
    """(10,) AP of one class at each threshold, 0..1."""
    by_image: dict[int, list[int]] = {}
    for place, a in enumerate(objects):
        by_image.setdefault(a["image_id"], []).append(place)
    difficult = np.array([bool(a["iscrowd"]) for a in objects])
    detections = sorted(detections, key=lambda d: -d["score"])
    best = np.full(len(detections), -1)  # place of the box that each overlaps most
    overlap = np.zeros(len(detections))
    for i, d in enumerate(detections):
        places = by_image.get(d["image_id"])
        if places:
            # the devkit's inclusive sides, xmax - xmin + 1, are our w and h
            boxes = [objects[place]["bbox"] for place in places]
            overlaps = mask.iou([d["bbox"]], boxes, [0] * len(boxes))[0]
            best[i], overlap[i] = places[int(np.argmax(overlaps))], max(overlaps)
    return np.array([_eleven_points(best, overlap > t, difficult) for t in THRESHOLDS])


def _eleven_points(best: np.ndarray, hit: np.ndarray, difficult: np.ndarray) -> float:
    """Mean of the best precisions at RECALLS.

    Args:
        best: (D,) each detection's box, scores descending.  hit: (D,) whether it overlaps enough.
        difficult: (N,) boxes that count neither as detected nor as missed.
    """
    ignored = hit & difficult[best]
    easy = np.flatnonzero(hit & ~ignored)
    right = np.zeros(len(best))
    right[easy[np.unique(best[easy], return_index=True)[1]]] = 1  # the first of each box
    true = right.cumsum()
    false = (1 - right - ignored).cumsum()
    recall, precision = true / (~difficult).sum(), true / np.maximum(true + false, 1)
    return float(np.mean([precision[recall >= r].max(initial=0) for r in RECALLS]))
