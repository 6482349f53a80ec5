"""AP against pycocotools, and VOC 2007's against the devkit's procedure written out."""

from __future__ import annotations

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from evaluate.detection.average_precision import coco_ap, voc07_ap
from evaluate.detection.coco import read_coco
from evaluate.detection.voc import read_voc
from tests.evaluate.detection.folders import coco_folder, voc_folder


@pytest.fixture(scope="module")
def truths(shared, tmp_path_factory):
    """The raccoons, some of them difficult, and the fruit with outlines."""
    root = tmp_path_factory.mktemp("data")
    voc = read_voc(voc_folder(shared, root / "voc", 1, 199))[1].truth
    for i, a in enumerate(voc["annotations"]):
        a["iscrowd"] = int(i % 7 == 0)
    coco = coco_folder(shared, root / "coco", 1)
    file = coco / "annotations" / "instances_val2017.json"
    return {"voc": voc, "coco": read_coco(file, coco / "val2017", "mini", outlines=True).truth}


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


def pycocotools_ap(truth: dict, detections: list[dict], kind: str) -> tuple[list[float], dict]:
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = copy.deepcopy(truth)
        reference.createIndex()
        judge = COCOeval(reference, reference.loadRes(copy.deepcopy(detections)), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    names = {c["id"]: c["name"] for c in truth["categories"]}
    precision = judge.eval["precision"]
    per_class = {
        names[c]: precision[:, :, i, 0, 2].mean() for i, c in enumerate(judge.params.catIds)
    }
    return judge.stats[:3].tolist(), per_class


@pytest.mark.parametrize(
    ("data", "kind", "seed"), [("voc", "bbox", 0), ("coco", "bbox", 1), ("coco", "segm", 1)]
)
def test_as_pycocotools(truths, data, kind, seed):
    truth, detections = truths[data], jittered(truths[data], seed, kind == "segm")
    before = json.dumps([truth, detections])
    ours, (theirs, per_class) = (
        coco_ap(truth, detections, kind),
        pycocotools_ap(truth, detections, kind),
    )
    assert 0.02 < theirs[0] < 0.98  # a comparison at 0 or 1 would say little
    numbers = [ours[key] / 100 for key in ("AP", "AP50", "AP75")]
    np.testing.assert_allclose(numbers, theirs, atol=1e-6, rtol=0)
    assert {k: v / 100 for k, v in ours["per_class"].items()} == pytest.approx(per_class, abs=1e-6)
    assert json.dumps([truth, detections]) == before


@pytest.mark.parametrize("measure", [coco_ap, voc07_ap])
def test_no_detections_are_zero(truths, measure):
    zero = {"AP": 0, "AP50": 0, "AP75": 0, "per_class": {"raccoon": 0}}
    assert measure(truths["voc"], []) == zero


def devkit_ap(objects: list[dict], detections: list[dict], threshold: float) -> float:
    """VOCevaldet.m's loop for one class, in its own coordinates."""
    taken, right, wrong = set(), [], []
    positives = sum(not a["iscrowd"] for a in objects)
    for d in sorted(detections, key=lambda d: -d["score"]):
        x, y, w, h = d["bbox"]
        box = (x + 1, y + 1, x + w, y + h)
        best, chosen = -np.inf, None
        for place, a in enumerate(objects):
            if a["image_id"] != d["image_id"]:
                continue
            gx, gy, gw, gh = a["bbox"]
            other = (gx + 1, gy + 1, gx + gw, gy + gh)
            iw = min(box[2], other[2]) - max(box[0], other[0]) + 1
            ih = min(box[3], other[3]) - max(box[1], other[1]) + 1
            overlap = iw * ih / (w * h + gw * gh - iw * ih) if iw > 0 and ih > 0 else 0
            if overlap > best:
                best, chosen = overlap, place
        hit = best > threshold
        if hit and objects[chosen]["iscrowd"]:
            continue
        good = hit and chosen not in taken
        taken.add(chosen if good else None)
        right.append(int(good))
        wrong.append(int(not good))
    tp, fp = np.cumsum(right), np.cumsum(wrong)
    total = 0.0
    for t in np.arange(0, 1.1, 0.1):
        values = [p / max(p + q, 1) for p, q in zip(tp, fp, strict=True) if p / positives >= t]
        total += max(values, default=0) / 11
    return total


def test_voc_2007_as_the_devkit(truths):
    truth = copy.deepcopy(truths["coco"])
    for i, a in enumerate(truth["annotations"]):
        a["iscrowd"] = int(i % 5 == 0)
    detections = jittered(truth, 2)
    ours = voc07_ap(truth, detections)
    table = []
    for category in truth["categories"]:
        objects, own = (
            [x for x in part if x["category_id"] == category["id"]]
            for part in (truth["annotations"], detections)
        )
        table.append([100 * devkit_ap(objects, own, t / 100) for t in range(50, 100, 5)])
    table = np.array(table)
    assert 10 < table.mean() < 90
    expected = [table.mean(), table[:, 0].mean(), table[:, 5].mean()]
    np.testing.assert_allclose([ours["AP"], ours["AP50"], ours["AP75"]], expected, atol=1e-9)
    per_class = [ours["per_class"][c["name"]] for c in truth["categories"]]
    np.testing.assert_allclose(per_class, table[:, 0])
