"""Reading VOC and COCO: what is read is what the files say; single broken objects are left out and
counted, and whatever else cannot be meant is refused by name."""

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

OBJECT = """<object><name>{name}</name>{difficult}
<bndbox><xmin>{x}</xmin><ymin>3</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin></bndbox></part></object>"""
XML = "<annotation><size><width>{width}</width><height>40</height></size>{objects}</annotation>"


def xml(*objects: dict, width: object = 50) -> str:
    """An annotation of objects named cup; by default one, whose box begins at x = 1."""
    common = {"name": "cup", "difficult": "<difficult>0</difficult>", "x": 1}
    texts = [OBJECT.format(**common | changes) for changes in objects or ({},)]
    return XML.format(objects="".join(texts), width=width)


def official(root: Path, **changes: object) -> Path:
    """VOC2007 and VOC2012 with one image in each list; those of trainval are difficult."""
    for folder, split in (("VOC2007", "trainval"), ("VOC2007", "test"), ("VOC2012", "trainval")):
        for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (root / folder / part).mkdir(parents=True, exist_ok=True)
        stem = f"{folder}_{split}"
        (root / folder / "ImageSets/Main" / f"{split}.txt").write_text(f"{stem}\n")
        (root / folder / "JPEGImages" / f"{stem}.jpg").write_bytes(b"")
        difficult = f"<difficult>{int(split == 'trainval')}</difficult>"
        text = xml({"name": "dog", "difficult": difficult} | changes)
        (root / folder / "Annotations" / f"{stem}.xml").write_text(text)
    return root


def own(root: Path, text: str | bytes = "", line: bytes = b"img 0\n") -> Path:
    """A set of one's own: one image, 50x40, named "img 0", in both lists."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    for split in ("trainval", "test"):
        (root / "ImageSets/Main" / f"{split}.txt").write_bytes(line)
    cv2.imwrite(str(root / "JPEGImages/img 0.jpg"), np.zeros((40, 50, 3), np.uint8))
    content = text if isinstance(text, bytes) else (text or xml()).encode()
    (root / "Annotations/img 0.xml").write_bytes(content)
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


def test_the_official_folders_and_difficult_objects(tmp_path):
    root = official(tmp_path / "VOCdevkit")
    train, test = read_voc(tmp_path)
    assert [part.file(0) for part in read_voc(root)] == [train.file(0), test.file(0)]
    assert [train.file(row) for row in range(2)] == [
        root / "VOC2007/JPEGImages/VOC2007_trainval.jpg",
        root / "VOC2012/JPEGImages/VOC2012_trainval.jpg",
    ]
    assert test.file(0) == root / "VOC2007/JPEGImages/VOC2007_test.jpg"
    assert train.classes == CLASSES.split() and len(train.classes) == 20
    (difficult,) = train.objects[0]  # learnt from, and neither detected nor missed
    assert difficult["iscrowd"] == 1 and difficult["bbox"] == [0, 2, 20, 28]
    assert difficult["category_id"] == 12 and test.truth["annotations"][0]["iscrowd"] == 0
    assert train.learnable().tolist() == [0, 1] and train.learnable().dtype == np.int64


@pytest.mark.parametrize(
    "line",
    [
        b"img 0\n",
        b"\xef\xbb\xbfimg 0\r\n\r\n",
        b"img 0  1\n",
        b"img 0.jpg",
        b"._img 0\n.ipynb_checkpoints\nimg 0\n",
    ],
)
def test_names_in_lists(tmp_path, line):
    (tmp_path / ".ipynb_checkpoints").mkdir()
    root = own(tmp_path / "own", line=line)
    (root / "Annotations/._img 0.xml").write_bytes(b"a system's own file")
    train, _ = read_voc(root)
    assert len(train) == 1 and train.file(0).name == "img 0.jpg" and train.classes == ["cup"]


@pytest.mark.parametrize("width", ["0", "50.0", "", "many", "1e12"])
def test_where_the_size_is_none_the_image_says_it(tmp_path, width):
    train, test = read_voc(own(tmp_path / "own", xml(width=width)))
    assert train.size(0) == test.size(0) == (40, 50)


def test_xml_of_other_tools(tmp_path):
    """A byte-order mark, CRs, floats, no word about difficulty, a box of one pixel."""
    text = xml({"x": "1.5", "difficult": ""}, {"x": 20}).replace("\n", "\r\n")
    train, _ = read_voc(own(tmp_path / "own", text.encode("utf-8-sig")))
    assert [a["bbox"] for a in train.objects[0]] == [[0.5, 2, 19.5, 28], [19, 2, 1, 28]]
    assert not any(a["iscrowd"] for a in train.objects[0])


def test_broken_objects_of_voc_are_left_out_and_counted(tmp_path, capsys):
    text = xml({}, {"x": 30}, {}, {}).replace(">20<", ">90<").replace(">1</xmin", ">80</xmin", 1)
    train, _ = read_voc(own(tmp_path / "own", text))
    assert len(train.objects[0]) == 3
    note = capsys.readouterr().err
    assert "own trainval: left out 1 of 4 objects, the first: " in note
    assert "outside of its image of 50x40 pixels" in note


def replaced(name: str, content: str):
    return lambda root: (root / name).write_text(content)


TEST = "VOC2007/Annotations/VOC2007_test.xml"
ENTITY = '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced("VOC2012/ImageSets/Main/trainval.txt", "x/../../secret\n"), "secret"),
        (lambda r: (r / "VOC2007").rename(r / "x"), "no folder VOC2007; .*; a set of your own"),
        (replaced("VOC2007/ImageSets/Main/test.txt", "\n"), "names no image"),
        (lambda r: (r / "VOC2007/ImageSets/Main/test.txt").unlink(), "test.txt: no such list"),
        (lambda r: (r / "VOC2007/JPEGImages/VOC2007_test.jpg").unlink(), "no such image"),
        (lambda r: (r / TEST).unlink(), "no such file of annotations"),
        (replaced(TEST, "<annotation>"), "not an annotation"),
        (replaced(TEST, '<?xml version="1.0" encoding="none"?><a/>'), "not an annotation"),
        (replaced(TEST, ENTITY), "declarations"),
        (lambda r: official(r, x=30), "2 of 2 objects.*the box"),
        (lambda r: official(r, x="1e99"), "box"),
        (lambda r: official(r, x="nan"), "box"),
        (lambda r: official(r, name=" "), "category ''"),
    ],
)
def test_what_is_wrong_with_voc_is_said(tmp_path, change, message):
    change(official(tmp_path))
    with pytest.raises((UsageError, FileNotFoundError), match=message):
        read_voc(tmp_path)


def test_coco_as_pycocotools_reads_it(shared, tmp_path):
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


IMAGE = {"id": 7, "width": 8, "height": 6, "file_name": "a.jpg"}
OBJECT_7 = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 1, 4, 4]}
COCO_LIKE = {
    "images": [IMAGE],
    "categories": [{"id": 3, "name": "x"}],
    "annotations": [OBJECT_7 | {"segmentation": [[1, 1, 5, 1, 5, 5]]}],
}


def read_content(folder: Path, content: object, encoding: str = "utf-8"):
    (folder / "a.json").write_text(json.dumps(content), encoding)
    return read_coco(folder / "a.json", folder, "x", outlines=True)


def read_changed(folder: Path, *more: dict, **changes: object):
    """COCO_LIKE with changes of its annotation, and copies of that with other changes."""
    first = COCO_LIKE["annotations"][0] | changes
    objects = [first, *(first | change for change in more)]
    return read_content(folder, COCO_LIKE | {"annotations": objects})


def test_crowds_and_boxes_without_area_are_not_learnt_from(tmp_path):
    read = read_changed(tmp_path, {"iscrowd": 1}, {"bbox": [2, 2, 0, 3]})
    assert [a["id"] for a in read.objects[0]] == [1] and len(read.truth["annotations"]) == 3


@pytest.mark.parametrize("compressed", [False, True])
def test_run_lengths_are_pycocotools(tmp_path, compressed):
    pixels = np.asfortranarray(np.random.default_rng(0).random((6, 8)) < 0.3).astype(np.uint8)
    code = masks.encode(pixels)
    flat = np.concatenate([[0], pixels.T.ravel(), [2]])
    plain = np.diff(np.flatnonzero(np.diff(flat)), prepend=0).tolist()
    counts = code["counts"].decode() if compressed else plain
    read = read_changed(tmp_path, segmentation={"size": [6, 8], "counts": counts})
    outline = read.truth["annotations"][0]["segmentation"]
    again = outline if compressed else masks.frPyObjects(outline, 6, 8)
    assert (masks.decode(again) == pixels).all()


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
    assert a["iscrowd"] == 0


def test_names_as_ids_repeated_entries_and_system_files(tmp_path, capsys):
    names = ("b.jpg", "a.jpg", "._a.jpg", ".ipynb_checkpoints/a-checkpoint.jpg")
    images = [IMAGE | {"id": name, "file_name": f"./{name}"} for name in names]
    objects = [OBJECT_7 | {"image_id": name, "segmentation": [1, 1, 5, 1, 5, 5]} for name in "bab"]
    for a in objects:
        a["image_id"] += ".jpg"
    content = COCO_LIKE | {"images": [*images, images[0]], "annotations": objects}
    read = read_content(tmp_path, content, "utf-8-sig")
    assert [image["file_name"] for image in read.truth["images"]] == ["b.jpg", "a.jpg"]
    assert [len(objects) for objects in read.objects] == [2, 1]
    assert "x: left out 2 files of the system or of tools" in capsys.readouterr().err


def test_categories_of_one_name_are_told_apart(tmp_path):
    categories = [{"id": i, "name": name} for i, name in ((5, "x"), (3, "x"), (4, "y"))]
    read = read_content(tmp_path, COCO_LIKE | {"categories": categories})
    assert read.classes == ["x (id 3)", "y", "x (id 5)"]


OUTLINE = "has no outline"
BROKEN = [
    ({"image_id": 8}, "image '8'"),
    ({"category_id": 8}, "category '8'"),
    ({"bbox": [0, 0, -1, 4]}, "the box"),
    ({"bbox": [0, 0, float("nan"), 4]}, "the box"),
    ({"bbox": [0, 0, 1]}, "the box"),
    ({"bbox": [20, 2, 3, 3]}, "outside of its image of 8x6 pixels"),
    ({"segmentation": None}, OUTLINE),
    ({"segmentation": [[1, 2]]}, OUTLINE),
    ({"segmentation": [[1, 1, 5, 1, 5, 1e9]]}, OUTLINE),
    ({"segmentation": {"size": [6, 8], "counts": [40, 10**9]}}, OUTLINE),
    ({"segmentation": {"size": [6, 8], "counts": [40, 4]}}, OUTLINE),
    ({"segmentation": {"size": [10**6, 10**6], "counts": [10**12]}}, OUTLINE),
    ({"segmentation": {"size": [6, 8], "counts": "abc"}}, OUTLINE),
    ({"segmentation": {"size": [6, 8], "counts": "o" * 100}}, OUTLINE),
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
    ("content", "message"),
    [
        ([COCO_LIKE], "it has no images"),
        ({"annotations": [OBJECT_7]}, "it has no images"),
        (COCO_LIKE | {"annotations": []}, "it has no annotations"),
        (COCO_LIKE | {"images": {"a": 1}}, "not COCO's form"),
        (COCO_LIKE | {"images": [IMAGE | {"file_name": "../a.jpg"}]}, "not a path below"),
        (COCO_LIKE | {"images": [IMAGE | {"file_name": "/a.jpg"}]}, "not a path below"),
        (COCO_LIKE | {"images": [IMAGE | {"width": 10**9}]}, "pixels, and .*: No such file"),
        (COCO_LIKE | {"images": [IMAGE, IMAGE | {"height": 9}]}, "two images have the same id, 7"),
    ],
)
def test_what_is_wrong_with_coco_is_said(tmp_path, content, message):
    with pytest.raises(UsageError, match=message):
        read_content(tmp_path, copy.deepcopy(content))
