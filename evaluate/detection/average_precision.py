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
    # entries are copied: the library adds to them
    reference = COCO({key: [dict(entry) for entry in entries] for key, entries in truth.items()})
    if detections:
        results = reference.loadRes([dict(d) for d in detections])
    else:
        results = COCO(truth | {"annotations": []})
    evaluation = COCOeval_faster(reference, results, kind, print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    # (thresholds, recalls, classes): of all areas, and of the most detections; -1: no object
    precision = evaluation.eval["precision"][..., 0, -1]

    def mean(part: np.ndarray) -> float:
        return 100 * float(part[part > -1].mean())

    names = {c["id"]: c["name"] for c in truth["categories"]}
    by_class = zip(evaluation.params.catIds, np.moveaxis(precision, -1, 0), strict=True)
    return AveragePrecision(
        AP=mean(precision),
        AP50=mean(precision[0]),
        AP75=mean(precision[5]),
        per_class={names[c]: mean(part) for c, part in by_class if part.max() > -1},
    )


def voc07_ap(truth: dict[str, list[dict]], detections: list[dict]) -> AveragePrecision:
    """VOC 2007's AP (the mean of the best precision at recalls 0, 0.1 ... 1); AP over overlaps 0.5
    to 0.95; `per_class` is AP50.

    A detection is judged against the box that it overlaps most, and only the best-scored one of a
    box is right; pixels are counted inclusively (the VOC devkit's VOCevaldet.m, and detectron2 for
    VOC 2007).
    """
    aps = {}
    for category in truth["categories"]:
        objects, own = (
            [a for a in part if a["category_id"] == category["id"]]
            for part in (truth["annotations"], detections)
        )
        if not all(a["iscrowd"] for a in objects):
            aps[category["name"]] = 100 * _class_ap(objects, own)
    mean = np.mean(list(aps.values()), 0)
    return AveragePrecision(
        AP=float(mean.mean()),
        AP50=float(mean[0]),
        AP75=float(mean[5]),
        per_class={name: float(values[0]) for name, values in aps.items()},
    )


def _class_ap(objects: list[dict], detections: list[dict]) -> np.ndarray:
    """(10,) AP of one class at each threshold, 0..1."""
    by_image: dict[int, list[int]] = {}
    for place, a in enumerate(objects):
        by_image.setdefault(a["image_id"], []).append(place)
    difficult = np.array([bool(a["iscrowd"]) for a in objects])
    best = np.full(len(detections), -1)  # place of the box that each overlaps most
    overlap = np.zeros(len(detections))
    for i, d in enumerate(sorted(detections, key=lambda d: -d["score"])):
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
