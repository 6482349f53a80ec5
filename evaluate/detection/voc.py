"""PASCAL VOC's XML, converted to COCO's form in memory.

Folders as the VOC devkit has them: VOC2007/{JPEGImages,Annotations,ImageSets/Main}, VOC2012/...; or
one such folder of one's own, with ImageSets/Main/trainval.txt and test.txt.
"""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

from tqdm import tqdm

from data.cli import UsageError
from data.sources.decode import MAX_PIXELS
from data.sources.listing import inside
from evaluate.detection.annotations import Annotated

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
TRAIN, TEST = (("VOC2007", "trainval"), ("VOC2012", "trainval")), (("VOC2007", "test"),)
LARGEST_XML = 1 << 20  # bytes; the largest of VOC has some 20 kB
SUFFIXES = (".jpg", ".jpeg", ".JPG", ".png")


def read_voc(root: str | os.PathLike) -> tuple[Annotated, Annotated]:
    """Training and test images: VOC07+12 trainval and VOC07 test, or trainval and test of one's own
    folder.

    Boxes count pixels from 1 and include the last one: (xmin, ymin, xmax, ymax) covers [xmin - 1,
    xmax] x [ymin - 1, ymax]. Objects marked difficult are learnt from and, at test, neither found
    nor missed (detectron2's reading and VOC's rule).

    Raises:
        UsageError: a missing folder, list, annotation or image; XML that cannot be read or has no
            sensible box.
    """
    root = Path(root)
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder")
    if (root / "JPEGImages").is_dir():
        sets, names = (
            ((("", "trainval"),), (("", "test"),)),
            (f"{root.name} trainval", f"{root.name} test"),
        )
    else:
        root = root / "VOCdevkit" if (root / "VOCdevkit").is_dir() else root
        sets, names = (TRAIN, TEST), ("VOC07+12 trainval", "VOC07 test")
        missing = [folder for folder in ("VOC2007", "VOC2012") if not (root / folder).is_dir()]
        if missing:
            raise UsageError(
                f"{root}: no folder {missing[0]}; VOC07+12 needs VOC2007 and VOC2012 there, each with "
                "JPEGImages, Annotations and ImageSets/Main; a set of your own, these three themselves"
            )
    parts = [
        [record for folder, split in chosen for record in _read_set(root, folder, split)]
        for chosen in sets
    ]
    found = {label for part in parts for record in part for label, *_ in record[3]}
    classes = list(CLASSES) if found <= set(CLASSES) else sorted(found)
    train, test = (
        _convert(part, name, root, classes) for part, name in zip(parts, names, strict=True)
    )
    return train, test


def _read_set(root: Path, folder: str, split: str):
    """(file_name, height, width, [(label, box, difficult)]) of each image that a list names."""
    base = root / folder
    file = base / "ImageSets" / "Main" / f"{split}.txt"
    if not file.is_file():
        raise UsageError(f"{file}: no such list of images")
    names = [
        line.split()[0] for line in file.read_text(errors="replace").splitlines() if line.strip()
    ]
    if not names:
        raise UsageError(f"{file}: names no image")
    wrong = next((n for n in names if not inside(os.fsencode(n))), None)
    if wrong is not None:
        raise UsageError(f"{file}: {wrong[:200]!r} is not the name of an image of this folder")
    for name in tqdm(
        names, desc=f"reading {folder or root.name} {split}", unit="img", leave=False, delay=1
    ):
        height, width, objects = read_xml(base / "Annotations" / f"{name}.xml")
        images = (Path(folder, "JPEGImages", f"{name}{suffix}") for suffix in SUFFIXES)
        image = next((i for i in images if (root / i).is_file()), None)
        if image is None:
            raise UsageError(
                f"{base / 'JPEGImages' / name}.jpg: no such image, though {file} names it"
            )
        yield str(image), height, width, objects


def read_xml(file: Path) -> tuple[int, int, list[tuple[str, list[float], bool]]]:
    """(height, width, [(label, [xmin, ymin, xmax, ymax] as written, difficult)]). UsageError with
    the file's name."""
    try:
        content = file.read_bytes()
        if len(content) > LARGEST_XML or b"<!" in content.replace(b"<!--", b""):
            raise ValueError(
                "too large, or with declarations of its own"
            )  # entities that expand to gigabytes
        tree = ElementTree.fromstring(content)
        width, height = (int(tree.findtext(f"size/{side}", "0")) for side in ("width", "height"))
        if min(width, height) < 1 or width * height > MAX_PIXELS:
            raise ValueError(f"size {width}x{height}")
        objects = []
        for item in tree.iter("object"):
            box = [
                float(item.findtext(f"bndbox/{side}", "nan"))
                for side in ("xmin", "ymin", "xmax", "ymax")
            ]
            label = item.findtext("name", "").strip()
            if not label or not (
                -width <= box[0] <= box[2] <= 2 * width
                and -height <= box[1] <= box[3] <= 2 * height
            ):
                raise ValueError(f"{label or 'an object without a name'} has the box {box}")
            objects.append((label, box, item.findtext("difficult", "0").strip() == "1"))
    except FileNotFoundError:
        raise UsageError(f"{file}: no such file of annotations") from None
    except (ElementTree.ParseError, ValueError, OverflowError, OSError) as error:
        raise UsageError(f"{file}: not an annotation of VOC ({error})") from error
    return height, width, objects


def _convert(records: list, name: str, root: Path, classes: list[str]) -> Annotated:
    places = {label: i + 1 for i, label in enumerate(classes)}
    images, annotations = [], []
    for row, (file_name, height, width, objects) in enumerate(records, 1):
        images.append({"id": row, "width": width, "height": height, "file_name": file_name})
        for label, (left, top, right, bottom), difficult in objects:
            box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": row,
                    "category_id": places[label],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(difficult),
                    "difficult": difficult,
                }
            )
    truth = {
        "images": images,
        "categories": [{"id": i, "name": label} for label, i in places.items()],
        "annotations": annotations,
    }
    return Annotated(name, [str(root / image["file_name"]) for image in images], truth)
