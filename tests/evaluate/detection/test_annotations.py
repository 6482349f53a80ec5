"""Reading VOC and COCO: what was read is what the files say, and what cannot be meant is refused by
name."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from pycocotools.coco import COCO

from data.cli import UsageError
from evaluate.detection.annotations import read_coco
from evaluate.detection.voc import CLASSES, read_voc
from tests.evaluate.detection.folders import coco_folder, voc_folder, xml_boxes

XML = """<annotation><size><width>50</width><height>40</height><depth>3</depth></size>
<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x}</xmin><ymin>3</ymin><xmax>20</xmax>
<ymax>30</ymax></bndbox><part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax>
</bndbox></part></object></annotation>"""


def official(root, name="dog", **changes):
    """VOC2007 and VOC2012 with one image in each list."""
    for folder, splits in (("VOC2007", ("trainval", "test")), ("VOC2012", ("trainval",))):
        for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (root / folder / part).mkdir(parents=True, exist_ok=True)
        for split in splits:
            (root / folder / "ImageSets/Main" / f"{split}.txt").write_text(f"{folder}_{split}\n")
            (root / folder / "JPEGImages" / f"{folder}_{split}.jpg").write_bytes(b"")
            text = XML.format(
                name=name, **({"difficult": int(split == "trainval"), "x": 1} | changes)
            )
            (root / folder / "Annotations" / f"{folder}_{split}.xml").write_text(text)
    return root


def test_raccoons(shared, tmp_path):
    train, test = read_voc(voc_folder(shared, tmp_path / "voc", 150, 50))
    assert (len(train), len(test), train.classes) == (150, 50, ["raccoon"])
    assert sum(len(p.truth["annotations"]) for p in (train, test)) == 217
    for part in (train, test):
        for row, image in enumerate(part.truth["images"]):
            name = image["file_name"].split("/")[-1].removesuffix(".jpg")
            wanted = xml_boxes(shared / "raccoon_voc" / "annotations" / f"{name}.xml")
            # written from 1 and inclusive; here from 0 to where the last pixel ends
            boxes = [
                [x + 1, y + 1, x + w, y + h]
                for x, y, w, h in (a["bbox"] for a in part.objects(row))
            ]
            assert boxes == wanted


def test_the_official_folders_and_difficult_objects(tmp_path):
    for root in (tmp_path / "plain", tmp_path / "kit" / "VOCdevkit"):
        train, test = read_voc(official(root) if root.name == "plain" else official(root).parent)
        assert [i["file_name"] for i in train.truth["images"]] == [
            "VOC2007/JPEGImages/VOC2007_trainval.jpg",
            "VOC2012/JPEGImages/VOC2012_trainval.jpg",
        ]
        assert test.files == [str(root / "VOC2007/JPEGImages/VOC2007_test.jpg")]
        assert train.classes == list(CLASSES) and len(train.classes) == 20
    (difficult,) = train.objects(0)  # learnt from, and neither found nor missed
    assert difficult["iscrowd"] == 1 and difficult["bbox"] == [0, 2, 20, 28]
    assert difficult["category_id"] == 12 and test.truth["annotations"][0]["iscrowd"] == 0
    assert train.learnable().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: (r / "VOC2012/ImageSets/Main/trainval.txt").write_text("../../secret\n"),
            "secret",
        ),
        (
            lambda r: (r / "VOC2007").rename(r / "images"),
            "no folder VOC2007; .*; a set of your own, these three",
        ),
        (lambda r: (r / "VOC2007/ImageSets/Main/test.txt").write_text("\n"), "names no image"),
        (lambda r: (r / "VOC2007/ImageSets/Main/test.txt").unlink(), "no such list"),
        (lambda r: (r / "VOC2007/JPEGImages/VOC2007_test.jpg").unlink(), "no such image"),
        (
            lambda r: (r / "VOC2007/Annotations/VOC2007_test.xml").unlink(),
            "no such file of annotations",
        ),
        (
            lambda r: (r / "VOC2007/Annotations/VOC2007_test.xml").write_text("<annotation>"),
            "not an annotation",
        ),
        (
            lambda r: (r / "VOC2007/Annotations/VOC2007_test.xml").write_text(
                '<!DOCTYPE a [<!ENTITY b "cc">]>' + XML.format(name="&b;", difficult=0, x=1)
            ),
            "declarations",
        ),
        (lambda r: official(r, x=30), "box"),
        (lambda r: official(r, x="1e99"), "box"),
        (lambda r: official(r, x="nan"), "box"),
        (lambda r: official(r, name=" "), "without a name"),
    ],
)
def test_what_is_wrong_with_voc_is_said(tmp_path, change, message):
    change(official(tmp_path))
    with pytest.raises(UsageError, match=message):
        read_voc(tmp_path)


def test_coco_as_pycocotools_reads_it(shared, tmp_path, capsys):
    root = coco_folder(shared, tmp_path, 12)
    file = root / "annotations" / "instances_train2017.json"
    found = read_coco(file, root / "train2017", "mini", outlines=True)
    other = COCO(str(file))
    assert found.classes == [c["name"] for c in other.loadCats(other.getCatIds())]
    assert len(found) == 12 == len(other.imgs)
    for row, image in enumerate(found.truth["images"]):
        theirs = other.loadAnns(other.getAnnIds(imgIds=[image["id"]]))
        assert [(a["bbox"], a["category_id"], a["segmentation"]) for a in found.objects(row)] == [
            (a["bbox"], a["category_id"], a["segmentation"]) for a in theirs
        ]
        assert found.size(row) == (
            other.imgs[image["id"]]["height"],
            other.imgs[image["id"]]["width"],
        )


COCO_LIKE = {
    "images": [{"id": 7, "width": 8, "height": 6, "file_name": "a.jpg"}],
    "categories": [{"id": 3, "name": "x"}],
    "annotations": [
        {
            "id": 1,
            "image_id": 7,
            "category_id": 3,
            "bbox": [1, 1, 4, 4],
            "iscrowd": 0,
            "segmentation": [[1, 1, 5, 1, 5, 5]],
        }
    ],
}


def test_crowds_and_boxes_without_area_are_not_learnt_from(tmp_path):
    content = copy.deepcopy(COCO_LIKE)
    for i, change in enumerate(
        ({"iscrowd": 1}, {"bbox": [2, 2, 0, 3]}, {"bbox": [20, 2, 3, 3]}), 2
    ):
        content["annotations"].append(content["annotations"][0] | {"id": i} | change)
    (tmp_path / "a.json").write_text(json.dumps(content))
    found = read_coco(tmp_path / "a.json", tmp_path, "x")
    assert [a["id"] for a in found.objects(0)] == [1]
    assert found.learnable().dtype == np.int64


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("images", 0, "file_name"), "../a.jpg", "not a path below"),
        (("images", 0, "file_name"), "/a.jpg", "not a path"),
        (("images", 0, "width"), 10**9, "pixels"),
        (("images", 0, "height"), 0, "pixels"),
        (("annotations", 0, "image_id"), 8, "image 8"),
        (("annotations", 0, "category_id"), 8, "category 8"),
        (("annotations", 0, "bbox"), [0, 0, -1, 4], "box"),
        (("annotations", 0, "bbox"), [0, 0, float("nan"), 4], "box"),
        (("annotations", 0, "bbox"), [0, 0, 1], "four numbers"),
        (("annotations",), [], "no annotations"),
        (("annotations", 0, "segmentation"), [[1, 2]], "outline"),
        (("images",), {"a": 1}, "COCO's form"),
        (("annotations", 0, "segmentation"), [[1, 1, 5, 1, 5, 1e9]], "outline"),
        (("annotations", 0, "segmentation"), {"size": [6, 8], "counts": [40, 10**9]}, "outline"),
        (("annotations", 0, "segmentation"), {"size": [6, 8], "counts": "abc"}, "outline"),
    ],
)
def test_what_is_wrong_with_coco_is_said(tmp_path, place, value, message):
    content = copy.deepcopy(COCO_LIKE)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=message):
        read_coco(tmp_path / "a.json", tmp_path, "x", outlines=True)
