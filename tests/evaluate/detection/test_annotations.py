"""Reading VOC and COCO: what is read is what the files say; single broken objects are left out and
counted, and whatever else cannot be meant is refused by name."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as masks
from pycocotools.coco import COCO

from data.cli import UsageError
from evaluate.detection.coco import read_coco
from evaluate.detection.voc import CLASSES, read_voc
from tests.evaluate.detection.folders import coco_folder, voc_folder, xml_boxes

XML = """<annotation><size><width>50</width><height>40</height><depth>3</depth></size>
<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x}</xmin><ymin>3</ymin><xmax>20</xmax>
<ymax>30</ymax></bndbox><part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax>
</bndbox></part></object></annotation>"""


def official(root: Path, name: str = "dog", **changes: object) -> Path:
    """VOC2007 and VOC2012 with one image in each list."""
    for folder, splits in (("VOC2007", ("trainval", "test")), ("VOC2012", ("trainval",))):
        for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (root / folder / part).mkdir(parents=True, exist_ok=True)
        for split in splits:
            stem = f"{folder}_{split}"
            (root / folder / "ImageSets/Main" / f"{split}.txt").write_text(f"{stem}\n")
            (root / folder / "JPEGImages" / f"{stem}.jpg").write_bytes(b"")
            values = {"difficult": int(split == "trainval"), "x": 1} | changes
            text = XML.format(name=name, **values)
            (root / folder / "Annotations" / f"{stem}.xml").write_text(text)
    return root


def own(root: Path, line: str = "img 0\n", encoding: str = "utf-8", text: str = "") -> Path:
    """A set of one's own: one image, 50x40, named "img 0", in both lists."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    for split in ("trainval", "test"):
        (root / "ImageSets/Main" / f"{split}.txt").write_text(line, encoding)
    cv2.imwrite(str(root / "JPEGImages/img 0.jpg"), np.zeros((40, 50, 3), np.uint8))
    (root / "Annotations/img 0.xml").write_text(text or XML.format(name="cup", difficult=0, x=1))
    return root


def test_raccoons(shared, tmp_path):
    train, test = read_voc(voc_folder(shared, tmp_path / "voc", 150, 50))
    assert (len(train), len(test), train.classes) == (150, 50, ["raccoon"])
    assert sum(len(p.truth["annotations"]) for p in (train, test)) == 217
    for part in (train, test):
        for row, image in enumerate(part.truth["images"]):
            name = image["file_name"].split("/")[-1].removesuffix(".jpg")
            boxes = [a["bbox"] for a in part.objects[row]]
            # written from 1 and inclusive; here from 0 to where the last pixel ends
            corners = [[x + 1, y + 1, x + w, y + h] for x, y, w, h in boxes]
            assert corners == xml_boxes(shared / "raccoon_voc" / "annotations" / f"{name}.xml")


@pytest.mark.parametrize("nested", [False, True])
def test_the_official_folders_and_difficult_objects(tmp_path, nested):
    root = official(tmp_path / "VOCdevkit")
    train, test = read_voc(tmp_path if nested else root)
    assert [train.file(row) for row in range(2)] == [
        root / "VOC2007/JPEGImages/VOC2007_trainval.jpg",
        root / "VOC2012/JPEGImages/VOC2012_trainval.jpg",
    ]
    assert test.file(0) == root / "VOC2007/JPEGImages/VOC2007_test.jpg"
    assert train.classes == CLASSES.split() and len(train.classes) == 20
    (difficult,) = train.objects[0]  # learnt from, and neither detected nor missed
    assert difficult["iscrowd"] == 1 and difficult["bbox"] == [0, 2, 20, 28]
    assert difficult["category_id"] == 12 and test.truth["annotations"][0]["iscrowd"] == 0
    assert train.learnable().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("line", "encoding"),
    [
        ("img 0\n", "utf-8"),
        ("img 0\r\n\r\n", "utf-8-sig"),
        ("img 0  1\n", "utf-8"),
        ("img 0.jpg", "utf-8"),
    ],
)
def test_names_in_lists(tmp_path, line, encoding):
    train, _ = read_voc(own(tmp_path / "own", line, encoding))
    assert train.file(0).name == "img 0.jpg" and train.classes == ["cup"]


@pytest.mark.parametrize("size", ["0", "50.0", "", "many", "1e12"])
def test_where_the_size_is_none_the_image_says_it(tmp_path, size):
    text = XML.format(name="cup", difficult=0, x=1).replace(">50<", f">{size}<")
    train, test = read_voc(own(tmp_path / "own", text=text))
    assert train.size(0) == test.size(0) == (40, 50)


def test_broken_objects_of_voc_are_left_out_and_counted(tmp_path, capsys):
    whole = XML.format(name="cup", difficult=0, x=1)
    start, end = whole.index("<object>"), whole.index("</annotation>")
    item = whole[start:end]
    broken = item.replace(">1</xmin>", ">30</xmin>", 1)
    text = whole[:start] + item + broken + item + whole[end:]
    train, _ = read_voc(own(tmp_path / "own", text=text))
    assert len(train.objects[0]) == 2
    assert "own trainval: left out 1 of 3 objects, the first: " in capsys.readouterr().err


def replaced(name: str, content: str):
    return lambda root: (root / name).write_text(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced("VOC2012/ImageSets/Main/trainval.txt", "../../secret\n"), "secret"),
        (
            lambda r: (r / "VOC2007").rename(r / "images"),
            "no folder VOC2007; .*; a set of your own",
        ),
        (replaced("VOC2007/ImageSets/Main/test.txt", "\n"), "names no image"),
        (lambda r: (r / "VOC2007/ImageSets/Main/test.txt").unlink(), "no such list"),
        (lambda r: (r / "VOC2007/JPEGImages/VOC2007_test.jpg").unlink(), "no such image"),
        (lambda r: (r / "VOC2007/Annotations/VOC2007_test.xml").unlink(), "no such file of ann"),
        (replaced("VOC2007/Annotations/VOC2007_test.xml", "<annotation>"), "not an annotation"),
        (
            replaced(
                "VOC2007/Annotations/VOC2007_test.xml", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'
            ),
            "declarations",
        ),
        (lambda r: official(r, x=30), "2 of 2 objects.*the box"),
        (lambda r: official(r, x="1e99"), "box"),
        (lambda r: official(r, x="nan"), "box"),
        (lambda r: official(r, name=" "), "category ''"),
    ],
)
def test_what_is_wrong_with_voc_is_said(tmp_path, change, message):
    change(official(tmp_path))
    with pytest.raises(UsageError, match=message):
        read_voc(tmp_path)


def test_coco_as_pycocotools_reads_it(shared, tmp_path, capsys):
    root = coco_folder(shared, tmp_path, 12)
    file = root / "annotations" / "instances_train2017.json"
    read = read_coco(file, root / "train2017", "mini", outlines=True)
    reference = COCO(str(file))
    assert read.classes == [c["name"] for c in reference.loadCats(reference.getCatIds())]
    assert len(read) == 12 == len(reference.imgs)
    keys = ("bbox", "category_id", "segmentation")
    for row, image in enumerate(read.truth["images"]):
        annotations = reference.loadAnns(reference.getAnnIds(imgIds=[image["id"]]))
        expected = [[a[key] for key in keys] for a in annotations]
        assert [[a[key] for key in keys] for a in read.objects[row]] == expected
        sides = reference.imgs[image["id"]]
        assert read.size(row) == (sides["height"], sides["width"])


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


def read_changed(folder: Path, *more: dict, **changes: object):
    """COCO_LIKE with changes of its annotation, and copies of that with other changes."""
    content = copy.deepcopy(COCO_LIKE)
    first = content["annotations"][0] | changes
    content["annotations"] = [first, *(first | change for change in more)]
    (folder / "a.json").write_text(json.dumps(content))
    return read_coco(folder / "a.json", folder, "x", outlines=True)


def test_crowds_and_boxes_without_area_are_not_learnt_from(tmp_path):
    read = read_changed(tmp_path, {"iscrowd": 1}, {"bbox": [2, 2, 0, 3]}, {"bbox": [20, 2, 3, 3]})
    assert [a["id"] for a in read.objects[0]] == [1] and len(read.truth["annotations"]) == 4
    assert read.learnable().dtype == np.int64


def test_compressed_run_lengths_are_pycocotools(tmp_path):
    rng = np.random.default_rng(0)
    for density in (0.02, 0.5, 0.98):
        pixels = np.asfortranarray(rng.random((6, 8)) < density).astype(np.uint8)
        code = masks.encode(pixels)
        read = read_changed(
            tmp_path, segmentation={"size": [6, 8], "counts": code["counts"].decode()}
        )
        counts = read.truth["annotations"][0]["segmentation"]["counts"]
        assert (np.repeat(np.arange(len(counts)) % 2, counts) == pixels.T.ravel()).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"area": float("nan")},
        {"area": None},
        {"area": "large"},
        {"image_id": "7", "category_id": 3.0},
        {"segmentation": [1, 1, 5, 1, 5, 5]},
        {"id": 0},
    ],
)
def test_what_is_unambiguous_is_read(tmp_path, changes):
    (a,) = read_changed(tmp_path, **changes).truth["annotations"]
    assert a["area"] == 16 and a["id"] == 1 and a["segmentation"] == [[1, 1, 5, 1, 5, 5]]


def test_names_as_ids(tmp_path):
    content = copy.deepcopy(COCO_LIKE)
    content["images"] = [
        {"id": f"{name}.jpg", "width": 8, "height": 6, "file_name": f"{name}.jpg"} for name in "ba"
    ]
    content["annotations"][0]["image_id"] = "b.jpg"
    (tmp_path / "a.json").write_text(json.dumps(content), "utf-8-sig")
    read = read_coco(tmp_path / "a.json", tmp_path, "x")
    assert [image["id"] for image in read.truth["images"]] == [2, 1]
    assert read.learnable().tolist() == [0]


OUTLINE = "has no outline"
BROKEN = [
    ({"image_id": 8}, "image '8'"),
    ({"category_id": 8}, "category '8'"),
    ({"bbox": [0, 0, -1, 4]}, "the box"),
    ({"bbox": [0, 0, float("nan"), 4]}, "the box"),
    ({"bbox": [0, 0, 1]}, "the box"),
    ({"segmentation": []}, OUTLINE),
    ({"segmentation": [[1, 2]]}, OUTLINE),
    ({"segmentation": [[1, 1, 5, 1, 5, 1e9]]}, OUTLINE),
    ({"segmentation": {"size": [6, 8], "counts": [40, 10**9]}}, OUTLINE),
    ({"segmentation": {"size": [6, 8], "counts": "abc"}}, OUTLINE),
    ({"segmentation": {"size": [6, 8], "counts": "o" * 100}}, "run lengths"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_one_broken_object_is_left_out_and_many_are_refused(tmp_path, capsys, change, message):
    read = read_changed(tmp_path, {}, change, {"id": 9})
    assert len(read.truth["annotations"]) == 3
    note = capsys.readouterr().err
    assert "x: left out 1 of 4 objects, the first: annotation 1" in note and message in note
    with pytest.raises(UsageError, match=f"a.json: cannot use 1 of 1 objects.*{message}"):
        read_changed(tmp_path, **change)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("images", 0, "file_name"), "../a.jpg", "not a path below"),
        (("images", 0, "file_name"), "/a.jpg", "not a path"),
        (("images", 0, "width"), 10**9, "pixels, and .*: No such file"),
        (("annotations",), [], "no annotations"),
        (("images",), {"a": 1}, "COCO's form"),
        (("images",), COCO_LIKE["images"] * 2, "the same id"),
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
