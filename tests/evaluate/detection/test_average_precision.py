"""AP against pycocotools, and VOC 2007's against the devkit's procedure written out."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from evaluate.detection.annotations import read_coco
from evaluate.detection.average_precision import coco_ap, voc07_ap
from evaluate.detection.voc import read_voc
from tests.evaluate.detection.folders import coco_folder, voc_folder


def jittered(truth: dict, seed: int, outlines: bool = False) -> list[dict]:
    """Detections around the true boxes, some of another class, some missing, and false ones."""
    rng, found = np.random.default_rng(seed), []
    sizes = {i["id"]: (i["height"], i["width"]) for i in truth["images"]}
    classes = [c["id"] for c in truth["categories"]]
    for a in truth["annotations"]:
        for _ in range(rng.integers(0, 4)):
            height, width = sizes[a["image_id"]]
            x, y, w, h = np.array(a["bbox"]) * rng.normal(1, 0.08, 4)
            x, y = np.clip(x, 0, width - 3), np.clip(y, 0, height - 3)
            box = [float(v) for v in (x, y, np.clip(w, 2, width - x), np.clip(h, 2, height - y))]
            label = a["category_id"] if rng.random() < 0.9 else int(rng.choice(classes))
            found.append(
                {
                    "image_id": a["image_id"],
                    "category_id": label,
                    "bbox": box,
                    "score": float(rng.random()),
                }
            )
            if outlines:
                mask = np.zeros((height, width), np.uint8, order="F")
                mask[int(y) : int(y + box[3]), int(x) : int(x + box[2])] = 1
                code = masks.encode(mask)
                found[-1]["segmentation"] = {
                    "size": code["size"],
                    "counts": code["counts"].decode(),
                }
    return found


def pycocotools_ap(truth: dict, found: list[dict], kind: str) -> tuple[list[float], dict]:
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = json.loads(json.dumps(truth))
        reference.createIndex()
        judge = COCOeval(reference, reference.loadRes(json.loads(json.dumps(found))), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
        names = {c["id"]: c["name"] for c in truth["categories"]}
        precision = judge.eval["precision"]
    return judge.stats[:3].tolist(), {
        names[c]: precision[:, :, i, 0, 2].mean() for i, c in enumerate(judge.params.catIds)
    }


def agree(truth: dict, found: list[dict], kind: str) -> None:
    before = json.dumps([truth, found])
    ours, (theirs, per_class) = coco_ap(truth, found, kind), pycocotools_ap(truth, found, kind)
    assert 0.02 < theirs[0] < 0.98  # a comparison at 0 or 1 would say little
    np.testing.assert_allclose(
        [ours[k] / 100 for k in ("AP", "AP50", "AP75")], theirs, atol=1e-6, rtol=0
    )
    assert set(ours["per_class"]) == set(per_class)
    for name, value in per_class.items():
        assert ours["per_class"][name] / 100 == pytest.approx(value, abs=1e-6)
    assert json.dumps([truth, found]) == before


def test_boxes_of_voc_as_pycocotools(shared, tmp_path):
    truth = read_voc(voc_folder(shared, tmp_path / "voc", 1, 199))[1].truth
    for i, a in enumerate(truth["annotations"]):
        a["iscrowd"] = int(i % 7 == 0)  # difficult ones
    agree(truth, jittered(truth, 0), "bbox")


def test_boxes_and_masks_of_coco_as_pycocotools(shared, tmp_path):
    root = coco_folder(shared, tmp_path, 1)
    truth = read_coco(
        root / "annotations" / "instances_val2017.json", root / "val2017", "mini", outlines=True
    ).truth
    found = jittered(truth, 1, outlines=True)
    agree(truth, found, "bbox")
    agree(truth, found, "segm")
    assert coco_ap(truth, found, "bbox")["AP"] != coco_ap(truth, found, "segm")["AP"]


def test_nothing_found_is_zero(shared, tmp_path):
    truth = read_voc(voc_folder(shared, tmp_path / "voc", 1, 5))[1].truth
    assert coco_ap(truth, []) == {"AP": 0, "AP50": 0, "AP75": 0, "per_class": {"raccoon": 0}}
    assert voc07_ap(truth, []) == {"AP": 0, "AP50": 0, "AP75": 0, "per_class": {"raccoon": 0}}


def devkit_ap(objects: list[dict], found: list[dict], threshold: float) -> float:
    """VOCevaldet.m's loop for one class, in its own coordinates."""
    taken, right, wrong = set(), [], []
    positives = sum(not a["iscrowd"] for a in objects)
    for d in sorted(found, key=lambda d: -d["score"]):
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
            if iw > 0 and ih > 0:
                union = (
                    (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
                    + (other[2] - other[0] + 1) * (other[3] - other[1] + 1)
                    - iw * ih
                )
                if iw * ih / union > best:
                    best, chosen = iw * ih / union, place
        hit = best > threshold
        if hit and objects[chosen]["iscrowd"]:
            right.append(0), wrong.append(0)
            continue
        good = hit and chosen not in taken
        taken.add(chosen if good else None)
        right.append(int(good)), wrong.append(int(not good))
    tp, fp = np.cumsum(right), np.cumsum(wrong)
    total = 0.0
    for t in np.arange(0, 1.1, 0.1):
        values = [p / max(p + q, 1) for p, q in zip(tp, fp, strict=True) if p / positives >= t]
        total += max(values, default=0) / 11
    return total


def test_voc_2007_as_the_devkit(shared, tmp_path):
    root = coco_folder(shared, tmp_path, 1)
    truth = read_coco(
        root / "annotations" / "instances_val2017.json", root / "val2017", "mini"
    ).truth
    for i, a in enumerate(truth["annotations"]):
        a["iscrowd"] = int(i % 5 == 0)
    found = jittered(truth, 2)
    ours = voc07_ap(truth, found)
    table = np.array(
        [
            [
                devkit_ap(
                    [a for a in truth["annotations"] if a["category_id"] == c["id"]],
                    [d for d in found if d["category_id"] == c["id"]],
                    t / 100,
                )
                for t in range(50, 100, 5)
            ]
            for c in truth["categories"]
        ]
    )
    assert 0.1 < table.mean() < 0.9
    np.testing.assert_allclose(
        [ours["AP"], ours["AP50"], ours["AP75"]],
        100 * np.array([table.mean(), table[:, 0].mean(), table[:, 5].mean()]),
        atol=1e-9,
    )
    np.testing.assert_allclose(
        [ours["per_class"][c["name"]] for c in truth["categories"]], 100 * table[:, 0]
    )
