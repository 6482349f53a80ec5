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
from data.io import is_system
from data.sources.listing import inside
from evaluate.detection.annotations import AnnotatedImages
from evaluate.detection.coco import from_coco

CLASSES = """aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse
motorbike person pottedplant sheep sofa train tvmonitor"""
SPLITS = ("trainval", "test")
OFFICIAL = {"VOC07+12 trainval": ("VOC2007", "VOC2012"), "VOC07 test": ("VOC2007",)}
CORNERS = ("xmin", "ymin", "xmax", "ymax")
LARGEST = 1 << 20  # bytes; the largest XML of VOC has some 20 kB
SUFFIXES = (".jpg", ".jpeg", ".JPG", ".JPEG", ".png", ".PNG", ".bmp", ".webp")


def read_voc(root: str | os.PathLike) -> list[AnnotatedImages]:
    """Training and test images: VOC07+12 trainval and VOC07 test, or trainval and test of one's own
    folder.

    Boxes count pixels from 1 and include the last one: (xmin, ymin, xmax, ymax) covers [xmin - 1,
    xmax] x [ymin - 1, ymax]. Objects marked difficult are learnt from and, at test, neither
    detected nor missed (detectron2's reading and VOC's rule).

    Raises:
        UsageError: a missing folder, annotation or image; XML that cannot be read; or most objects
            have no name or no sensible box.
    """
    root = Path(root)
    if (root / "JPEGImages").is_dir():
        folders = {f"{root.name} {split}": ("",) for split in SPLITS}
    else:
        root = root / "VOCdevkit" if (root / "VOCdevkit").is_dir() else root
        folders = OFFICIAL
        missing = [name for name in OFFICIAL["VOC07+12 trainval"] if not (root / name).is_dir()]
        if missing:
            raise UsageError(
                f"{root}: no folder {missing[0]}; VOC07+12 needs VOC2007 and VOC2012 there, each "
                "with JPEGImages, Annotations and ImageSets/Main; a set of your own, these three "
                "themselves"
            )
    parts = [_read(root, part, split) for part, split in zip(folders.values(), SPLITS, strict=True)]
    labels = {a["category_id"] for part in parts for a in part["annotations"]} - {""}
    official = CLASSES.split()
    classes = official if labels <= set(official) else sorted(labels)
    numbers = {label: number for number, label in enumerate(classes, 1)}
    for part in parts:
        part["categories"] = [{"id": i, "name": label} for label, i in numbers.items()]
        for a in part["annotations"]:
            a["category_id"] = numbers.get(a["category_id"], "")
    try:
        return [from_coco(part, root, name) for name, part in zip(folders, parts, strict=True)]
    except UsageError as error:
        raise UsageError(f"{root}: {error}") from error


def _read(root: Path, folders: tuple[str, ...], split: str) -> dict[str, list[dict]]:
    """The images that the lists name, and their objects, in COCO's form; labels for categories."""
    content: dict[str, list[dict]] = {"images": [], "annotations": []}
    for folder in folders:
        base = root / folder
        file = base / "ImageSets" / "Main" / f"{split}.txt"
        if not file.is_file():
            raise UsageError(f"{file}: no such list of images")
        lines = [
            line.strip() for line in file.read_text("utf-8-sig", "surrogateescape").split("\n")
        ]
        lines = [line for line in lines if line and not is_system(os.fsencode(line))]
        if not lines:
            raise UsageError(f"{file}: names no image")
        for line in tqdm(lines, f"reading {base.name} {split}", unit="img", leave=False, delay=1):
            name = _name(line, base / "Annotations")
            files = [base / "JPEGImages" / f"{name}{suffix}" for suffix in SUFFIXES]
            image = next((path for path in files if path.is_file()), None)
            if image is None:
                raise UsageError(f"{files[0]}: no such image, though {file} names it")
            number = len(content["images"]) + 1
            sides, objects = _read_xml(base / "Annotations" / f"{name}.xml", number)
            entry = {"id": number, "file_name": os.path.relpath(image, root), **sides}
            content["images"].append(entry)
            content["annotations"] += objects
    return content


def _name(line: str, annotations: Path) -> str:
    """The image that a line of a list means: all of it, or less a suffix, or less the label that
    lists of one class have behind it. UsageError where none has an annotation."""
    for name in (line, os.path.splitext(line)[0], line.rsplit(maxsplit=1)[0]):
        if inside(os.fsencode(name)) and (annotations / f"{name}.xml").is_file():
            return name
    raise UsageError(f"{annotations / line}.xml: no such file of annotations")


def _read_xml(file: Path, number: int) -> tuple[dict, list[dict]]:
    """The sides and the objects of image `number`, as written. UsageError with the file's name."""
    try:
        content = file.read_bytes()
        # entities of its own would expand to gigabytes
        if len(content) > LARGEST or b"<!" in content.replace(b"<!--", b""):
            raise ValueError("too large, or with declarations of its own")
        tree = ElementTree.fromstring(content)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise UsageError(f"{file}: not an annotation of VOC ({error})") from error
    objects = []
    for item in tree.iter("object"):
        label = item.findtext("name", "").strip()
        left, top, right, bottom = (_number(item.findtext(f"bndbox/{side}")) for side in CORNERS)
        difficult = item.findtext("difficult", "").strip() == "1"
        objects.append(
            {
                "id": f"{label!r} of {file}",
                "image_id": number,
                "category_id": label,
                "bbox": [left - 1, top - 1, right - left + 1, bottom - top + 1],
                "iscrowd": difficult,
                "difficult": difficult,
            }
        )
    return {side: tree.findtext(f"size/{side}") for side in ("width", "height")}, objects


def _number(text: str | None) -> float:
    """NaN where it is none."""
    try:
        return float(text or "")
    except ValueError:
        return float("nan")
