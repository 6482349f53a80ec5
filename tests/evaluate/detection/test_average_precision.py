"""AP against pycocotools, and VOC 2007's against the devkit's procedure written out."""

import copy

import numpy as np
import pytest
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from evaluate.detection.average_precision import coco_ap, voc07_ap

KEYS = ("AP", "AP50", "AP75")


@pytest.fixture
def truth(squares):
    """The squares; every fifth of them is difficult."""
    objects = [a | {"iscrowd": int(i % 5 == 0)} for i, a in enumerate(squares.truth["annotations"])]
    return squares.truth | {"annotations": objects}


def jittered(truth: dict, seed: int, outlines: bool = False) -> list[dict]:
    """Detections around the true boxes, some of another class, some missing, and false ones."""
    rng, detections = np.random.default_rng(seed), []
    sizes = {i["id"]: (i["height"], i["width"]) for i in truth["images"]}
    classes = [c["id"] for c in truth["categories"]]
    for a in np.repeat(truth["annotations"], rng.integers(0, 4, len(truth["annotations"]))):
        height, width = sizes[a["image_id"]]
        x, y, w, h = np.array(a["bbox"]) * rng.normal(1, 0.08, 4)
        x, y = np.clip(x, 0, width - 3), np.clip(y, 0, height - 3)
        box = [float(v) for v in (x, y, np.clip(w, 2, width - x), np.clip(h, 2, height - y))]
        label = a["category_id"] if rng.random() < 0.9 else int(rng.choice(classes))
        detection = {"image_id": a["image_id"], "category_id": label, "bbox": box}
        detections.append(detection | {"score": float(rng.random())})
        if outlines:
            mask = np.zeros((height, width), np.uint8, order="F")
            mask[int(y) : int(y + box[3]), int(x) : int(x + box[2])] = 1
            code = masks.encode(mask)
            detections[-1]["segmentation"] = code | {"counts": code["counts"].decode()}
    return detections


@pytest.mark.parametrize(("kind", "seed"), [("bbox", 0), ("bbox", 1), ("segm", 1)])
def test_as_pycocotools(truth, kind, seed):
    detections = jittered(truth, seed, kind == "segm")
    reference = COCO()
    reference.dataset, theirs = copy.deepcopy((truth, detections))
    ours = coco_ap(truth, detections, kind)
    assert (truth, detections) == (reference.dataset, theirs)  # unchanged
    reference.createIndex()
    judge = COCOeval(reference, reference.loadRes(theirs), kind)
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert 0.02 < judge.stats[0] < 0.98  # a comparison at 0 or 1 would say little
    assert [ours[key] / 100 for key in KEYS] == pytest.approx(judge.stats[:3], abs=1e-6)
    names = {c["id"]: c["name"] for c in truth["categories"]}
    precision = judge.eval["precision"][..., 0, 2].mean((0, 1))
    per_class = {names[c]: 100 * p for c, p in zip(judge.params.catIds, precision, strict=True)}
    assert ours["per_class"] == pytest.approx(per_class, abs=1e-4)


def devkit_overlap(a: list[float], b: list[float]) -> float:
    """Of two [x, y, w, h], in inclusive corners as the devkit has them."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
    iw = min(ax + aw, bx + bw) - max(ax + 1, bx + 1) + 1
    ih = min(ay + ah, by + bh) - max(ay + 1, by + 1) + 1
    return iw * ih / (aw * ah + bw * bh - iw * ih) if iw > 0 and ih > 0 else 0


def devkit_ap(objects: list[dict], detections: list[dict], threshold: float) -> float:
    """VOCevaldet.m's loop for one class."""
    taken, right = set(), []
    positives = sum(not a["iscrowd"] for a in objects)
    for d in sorted(detections, key=lambda d: -d["score"]):
        best, chosen = -np.inf, None
        for place, a in enumerate(objects):
            overlap = devkit_overlap(d["bbox"], a["bbox"])
            if a["image_id"] == d["image_id"] and overlap > best:
                best, chosen = overlap, place
        hit = best > threshold
        if not hit or not objects[chosen]["iscrowd"]:
            right.append(hit and chosen not in taken)
            taken.add(chosen if hit else None)
    true = np.cumsum(right)
    precision, recall = true / np.arange(1, len(true) + 1), true / positives
    return np.mean([max(precision[recall >= t], default=0) for t in np.arange(0, 1.1, 0.1)])


def test_voc_2007_as_the_devkit(truth):
    detections, table = jittered(truth, 2), {}
    for category in truth["categories"]:
        objects = [a for a in truth["annotations"] if a["category_id"] == category["id"]]
        own = [d for d in detections if d["category_id"] == category["id"]]
        aps = [100 * devkit_ap(objects, own, t / 100) for t in range(50, 100, 5)]
        table[category["name"]] = aps
    ours, mean = voc07_ap(truth, detections), np.mean(list(table.values()), 0)
    assert 10 < mean.mean() < 90
    assert [ours[key] for key in KEYS] == pytest.approx([mean.mean(), mean[0], mean[5]])
    assert ours["per_class"] == pytest.approx({name: aps[0] for name, aps in table.items()})
    zero = {"AP": 0, "AP50": 0, "AP75": 0, "per_class": {"a": 0, "b": 0}}
    assert coco_ap(truth, []) == voc07_ap(truth, []) == zero
