"""VOC and COCO: what the files say; single broken objects are left out, all else is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as masks
from pycocotools.coco import COCO

from data.cli import UsageError
from evaluate.detection.coco import read_coco
from evaluate.detection.voc import CLASSES, read_voc
from tests.conftest import refused
from tests.evaluate.folders import own_voc, run_lengths, xml

TEST = "VOC2007/Annotations/VOC2007_test.xml"
IMAGE = {"id": 7, "width": 8, "height": 6, "file_name": "a.jpg"}
OUTLINE = [1, 1, 5, 1, 5, 5]
OBJECT = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 1, 4, 4], "segmentation": [OUTLINE]}
GOOD = {"images": [IMAGE], "categories": [{"id": 3, "name": "x"}], "annotations": [OBJECT]}


def official(root: Path) -> Path:
    """VOC2007 and VOC2012 with one image in each list; those of trainval are difficult."""
    for folder, split in (("VOC2007", "trainval"), ("VOC2007", "test"), ("VOC2012", "trainval")):
        difficult = f"<difficult>{int(split == 'trainval')}</difficult>"
        stem, base = f"{folder}_{split}", root / folder
        files = {f"ImageSets/Main/{split}.txt": f"{stem}\n", f"JPEGImages/{stem}.jpg": ""}
        files[f"Annotations/{stem}.xml"] = xml({"name": "dog", "difficult": difficult})
        for name, content in files.items():
            (base / name).parent.mkdir(parents=True, exist_ok=True)
            (base / name).write_text(content)
    return root


@pytest.mark.parametrize("below", ["", "VOCdevkit"])
def test_the_official_folders_and_difficult_objects(tmp_path, below):
    official(tmp_path / below)
    train, test = read_voc(tmp_path)
    files = [train.file(0).name, train.file(1).name, test.file(0).name]
    assert files == ["VOC2007_trainval.jpg", "VOC2012_trainval.jpg", "VOC2007_test.jpg"]
    assert train.classes == CLASSES.split() and len(train.classes) == 20
    (difficult,) = train.objects[0]  # learnt from, and neither detected nor missed
    assert difficult["iscrowd"] == 1 and difficult["category_id"] == 12
    assert test.truth["annotations"][0]["iscrowd"] == 0


def test_voc_of_other_tools_and_broken_objects(tmp_path, capsys):
    lines = (b"img 0\n", b"\xef\xbb\xbfimg 0\r\n\r\n", b"img 0  1\n", b"img 0.jpg")
    texts = [xml({"x": "1.0", "difficult": ""}).replace("\n", "\r\n").encode("utf-8-sig")]
    # where the size is none, the image says it
    texts += [xml(width=width) for width in ("0", "50.0", "", "many", "1e12")]
    cases = [*((xml(), line) for line in lines), *((text, b"img 0") for text in texts)]
    for i, (text, line) in enumerate(cases):
        root = own_voc(tmp_path / f"{i}", text, b"._img 0\n.ipynb_checkpoints\n" * (i == 0) + line)
        (root / "Annotations/._img 0.xml").write_bytes(b"a system's own file")
        for part in read_voc(root):
            assert len(part) == 1 and part.file(0).name == "img 0.jpg", (text, line)
            (a,) = part.objects[0]
            assert a["bbox"] == [0, 2, 20, 28] and not a["iscrowd"] and part.size(0) == (40, 50)
            assert part.classes == ["cup"]
    text = xml({}, {"x": 20}, {"x": 80}, {"x": 2}).replace(">20</xmax", ">90</xmax", 3)
    train, _ = read_voc(own_voc(tmp_path / "own", text))
    assert [a["bbox"][2] for a in train.objects[0]] == [90, 71, 19]
    note = capsys.readouterr().err
    assert "own trainval: left out 1 of 4 objects, the first: " in note
    assert "outside of its image of 50x40 pixels" in note


def test_what_is_wrong_with_voc_is_said(tmp_path):
    cases = (
        ("VOC2007", None, "no folder VOC2007; .*; a set of your own"),
        ("VOC2012/ImageSets/Main/trainval.txt", "x/../../secret\n", "secret"),
        ("VOC2007/ImageSets/Main/test.txt", "\n", "names no image"),
        ("VOC2007/ImageSets/Main/test.txt", None, "test.txt: no such list"),
        ("VOC2007/JPEGImages/VOC2007_test.jpg", None, "no such image"),
        (TEST, None, "no such file of annotations"),
        (TEST, '<?xml version="1.0" encoding="none"?><a/>', "not an annotation"),
        (TEST, '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "declarations"),
        (TEST, xml({"x": "nan"}), "1 of 1 objects.*the box"),
        (TEST, xml({"name": " "}), "category ''"),
    )
    for i, (name, content, message) in enumerate(cases):
        file = official(tmp_path / f"{i}") / name
        file.rename(tmp_path / f"x{i}") if content is None else file.write_text(content)
        with pytest.raises((UsageError, FileNotFoundError), match=message):
            read_voc(tmp_path / f"{i}")


def test_coco_as_pycocotools_reads_it(shared):
    folder = shared / "coco_json_mini" / "data"
    read = read_coco(folder / "trainval.json", folder / "images", "mini", outlines=True)
    reference = COCO(str(folder / "trainval.json"))
    assert read.classes == [c["name"] for c in reference.loadCats(reference.getCatIds())]
    assert len(read) == len(reference.imgs)
    read.require_files(np.arange(len(read)))
    absent = replace(read, folder=folder)
    assert "lacks 1 of 1 images of mini: " in refused(absent.require_files, np.arange(1))
    for row, image in enumerate(read.truth["images"]):
        annotations = reference.loadAnns(reference.getAnnIds(imgIds=[image["id"]]))
        for ours, theirs in zip(read.objects[row], annotations, strict=True):
            assert all(ours[key] == theirs[key] for key in ("bbox", "category_id", "segmentation"))
        sides = reference.imgs[image["id"]]
        assert read.size(row) == (sides["height"], sides["width"])


def read_content(folder: Path, content: object):
    (folder / "a.json").write_text(json.dumps(content), "utf-8-sig")
    return read_coco(folder / "a.json", folder, "x", outlines=True)


def read_changed(folder: Path, *changes: dict):
    return read_content(folder, GOOD | {"annotations": [OBJECT | change for change in changes]})


def lengths(counts: object, size: tuple[int, int] = (6, 8)) -> dict:
    return {"segmentation": {"size": list(size), "counts": counts}}


def test_what_is_unambiguous_is_read(tmp_path, capsys):
    pixels = np.asfortranarray(np.random.default_rng(0).random((6, 8)) < 0.3).astype(np.uint8)
    counts = (run_lengths(pixels), masks.encode(pixels)["counts"].decode())
    odd = ({"area": float("nan")}, {"area": "large"}, {"image_id": "7", "category_id": 3.0})
    for change in (*odd, {"segmentation": OUTLINE}, {"id": 0}, *map(lengths, counts)):
        (a,) = read_changed(tmp_path, change).truth["annotations"]
        outline = change.get("segmentation")
        expected = outline if isinstance(outline, dict) else [OUTLINE]
        assert (a["area"], a["id"], a["segmentation"], a["iscrowd"]) == (16, 1, expected, 0)
    # names as ids, repeated entries and the system's files
    names = ("b.jpg", "a.jpg", "._a.jpg", ".ipynb_checkpoints/a-checkpoint.jpg")
    images = [IMAGE | {"id": name, "file_name": f"./{name}"} for name in names]
    objects = [OBJECT | {"image_id": f"{name}.jpg"} for name in "bab"]
    categories = [{"id": i, "name": name} for i, name in ((5, "x"), (3, "x"), (4, "y"))]
    content = {"images": [*images, images[0]], "categories": categories, "annotations": objects}
    read = read_content(tmp_path, content)
    assert [image["file_name"] for image in read.truth["images"]] == ["b.jpg", "a.jpg"]
    assert [len(objects) for objects in read.objects] == [2, 1]
    assert "x: left out 2 files of the system or of tools" in capsys.readouterr().err
    assert read.classes == ["x (id 3)", "y", "x (id 5)"]


def test_one_broken_object_is_left_out_and_many_are_refused(tmp_path, capsys):
    broken = [{"segmentation": x} for x in (None, [[1, 2]], [[1, 1, 5, 1, 5, 1e9]])]
    broken += map(lengths, ([40, 10**9], [40, 4], "abc", "o" * 100))
    for change, message in (
        ({"image_id": 8}, "image '8'"),
        ({"category_id": 8}, "category '8'"),
        ({"bbox": [0, 0, -1, 4]}, "the box"),
        ({"bbox": [20, 2, 3, 3]}, "outside of its image of 8x6 pixels"),
        (lengths([10**12], (10**6, 10**6)), "has no outline"),
        *((outline, "has no outline") for outline in broken),
    ):
        read = read_changed(tmp_path, {"iscrowd": 1}, {}, change, {"bbox": [2, 2, 0, 3]})
        # neither crowds nor boxes without area are learnt from
        assert len(read.truth["annotations"]) == 3 and [a["id"] for a in read.objects[0]] == [2]
        note = capsys.readouterr().err
        assert "x: left out 1 of 4 objects, the first: annotation 1" in note and message in note
        said = refused(read_changed, tmp_path, change)
        assert "a.json: cannot use 1 of 1 objects" in said and message in said


def test_what_is_wrong_with_coco_is_said(tmp_path):
    for content, message in (
        ([GOOD], "it has no images"),
        (GOOD | {"annotations": []}, "it has no annotations"),
        (GOOD | {"images": {"a": 1}}, "not COCO's form"),
        (GOOD | {"images": [IMAGE | {"file_name": "../a.jpg"}]}, "not a path below"),
        (GOOD | {"images": [IMAGE | {"width": 10**9}]}, "pixels, and .*: No such file"),
        (GOOD | {"images": [IMAGE, IMAGE | {"height": 9}]}, "two images have the same id, 7"),
        (GOOD | {"annotations": [OBJECT | {"bbox": [0.2, 0.1, 0.5, 0.8]}]}, "are they shares"),
        (GOOD | {"annotations": [OBJECT | {"bbox": [3, 2, 8, 5]}]}, "reach beyond .* corners"),
    ):
        assert re.search(message, refused(read_content, tmp_path, content))
