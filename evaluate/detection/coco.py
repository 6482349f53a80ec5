"""COCO's form of annotations: what is unambiguous is read, whatever tool wrote it; single broken
objects are left out and counted."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from data.cli import UsageError, note
from data.sources.decode import MAX_PIXELS, ImageError, image_size
from data.sources.images import read_bytes
from data.sources.listing import inside
from evaluate.detection.annotations import AnnotatedImages

LARGEST = 4 << 30  # bytes; COCO's largest file of annotations has 0.5 GB
FARTHEST = 1e6  # pixels: no coordinate is meant to reach farther
DIGITS = 18  # of a whole number that is an id
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def read_coco(file: Path, folder: Path, name: str, outlines: bool = False) -> AnnotatedImages:
    """A file in COCO's JSON form, its images below `folder`; see from_coco.

    Raises:
        UsageError: no such file, or what from_coco says, with the file's name.
    """
    if not file.is_file():
        raise UsageError(f"{file}: no such file of annotations")
    if file.stat().st_size > LARGEST:
        raise UsageError(f"{file}: over {LARGEST >> 30} GiB; no file of annotations is that large")
    try:
        return from_coco(json.loads(file.read_bytes()), folder, name, outlines)
    except MALFORMED as error:
        kind = "" if isinstance(error, UsageError) else "not COCO's form: "
        raise UsageError(f"{file}: {kind}{error}") from error


def from_coco(content: dict, folder: Path, name: str, outlines: bool = False) -> AnnotatedImages:
    """Annotations in COCO's form, checked. Objects are numbered anew, and ids that are no whole
    numbers as well. A size that is none is the image's own.

    Args:
        outlines: with segmentations; an object without one is left out.

    Raises:
        UsageError: no images, categories or annotations, or most of these are broken.
        ValueError, KeyError, TypeError, AttributeError, OverflowError: not COCO's form.
    """
    for key in ("images", "categories", "annotations"):
        if not content[key]:
            raise UsageError(f"it has no {key}")
    numbers = {key: _numbers(key, content[key]) for key in ("images", "categories")}
    images = [_image(entry, numbers["images"], folder) for entry in content["images"]]
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    objects, broken = [], []
    for place, entry in enumerate(content["annotations"]):
        try:
            a = _object(entry, numbers["images"], numbers["categories"])
            if outlines:
                a["segmentation"] = _outline(entry.get("segmentation"), *sizes[a["image_id"]])
            objects.append({"id": len(objects) + 1, **a})
        except MALFORMED as error:
            which = entry.get("id", place) if isinstance(entry, dict) else place
            broken.append(f"annotation {which} {error}")
    if broken:
        count = f"{len(broken)} of {len(broken) + len(objects)} objects, the first: {broken[0]}"
        if len(broken) > len(objects):
            raise UsageError(f"cannot use {count}")
        note(f"{name}: left out {count}")
    categories = [
        {"id": numbers["categories"][_key(entry["id"])], "name": str(entry["name"])}
        for entry in content["categories"]
    ]
    categories.sort(key=lambda category: category["id"])
    truth = {"images": images, "categories": categories, "annotations": objects}
    return AnnotatedImages(name, folder, truth)


def _key(value: object) -> str:
    """An id as text, the same of 7, 7.0, "7" and "007"."""
    text = str(value).removesuffix(".0")
    return str(int(text)) if text.isdecimal() and len(text) <= DIGITS else text


def _numbers(what: str, entries: list[dict]) -> dict[str, int]:
    """{key of an id: number}: the id itself where all are whole numbers, else counted from 1."""
    keys = sorted((_key(entry["id"]) for entry in entries), key=lambda key: (len(key), key))
    if len(set(keys)) < len(keys):
        raise UsageError(f"two {what} have the same id")
    whole = all(key.isdecimal() and len(key) <= DIGITS for key in keys)
    return {key: int(key) if whole else place for place, key in enumerate(keys, 1)}


def _image(entry: dict, numbers: dict[str, int], folder: Path) -> dict:
    name = str(entry["file_name"])
    if not inside(os.fsencode(name)):
        raise UsageError(f"file_name {name[:200]!r} is not a path below the image folder")
    height, width = _size(folder / name, entry.get("height"), entry.get("width"))
    number = numbers[_key(entry["id"])]
    return {"id": number, "width": width, "height": height, "file_name": name}


def _size(file: Path, height: object, width: object) -> tuple[int, int]:
    """(height, width) as annotated; where that is no size in pixels, as the image's header says."""
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        sides = int(float(height)), int(float(width))
        if min(sides) > 0 and sides[0] * sides[1] <= MAX_PIXELS:
            return sides
    annotated = f"its annotation says {width}x{height} pixels"
    try:
        width, height = image_size(read_bytes("", os.fsencode(file)))
    except ImageError as error:
        raise UsageError(f"{file}: {annotated}, and {error}") from error
    if width * height > MAX_PIXELS:
        raise UsageError(f"{file}: {width}x{height} pixels, more than {MAX_PIXELS}")
    return height, width


def _object(entry: dict, images: dict[str, int], categories: dict[str, int]) -> dict:
    """An object without its outline; one of MALFORMED where it is broken."""
    image, category = _key(entry.get("image_id")), _key(entry.get("category_id"))
    if image not in images or category not in categories:
        raise ValueError(
            f"is of image {image!r} and category {category!r}, which are not both there"
        )
    box = [float(v) for v in entry.get("bbox") or ()]
    if len(box) != 4 or not all(abs(v) < FARTHEST for v in box) or min(box[2:]) < 0:
        raise ValueError(f"has the box {box}, not [x, y, width, height] in pixels")
    area = entry.get("area")
    known = isinstance(area, int | float) and 0 <= area < float("inf")
    return {
        "image_id": images[image],
        "category_id": categories[category],
        "bbox": box,
        "area": float(area) if known else box[2] * box[3],
        "iscrowd": int(entry.get("iscrowd") or 0),
        "difficult": bool(entry.get("difficult")),
    }


def _outline(outline: object, height: int, width: int) -> list | dict:
    """Polygons, or plain run lengths, such as compiled code can take. ValueError for anything
    else."""
    if isinstance(outline, dict):
        counts = outline.get("counts")
        counts = _run_lengths(counts) if isinstance(counts, str) else counts
        whole = isinstance(counts, list) and all(type(c) is int and c >= 0 for c in counts)
        if whole and outline.get("size") == [height, width] and sum(counts) == height * width:
            return {"size": [height, width], "counts": counts}
    elif isinstance(outline, list) and outline:
        polygons = [outline] if isinstance(outline[0], int | float) else outline
        if all(_is_polygon(points) for points in polygons):
            return polygons
    raise ValueError(
        "has no outline: polygons of three points and more, or run lengths that add up to the "
        "image's pixels"
    )


def _is_polygon(points: object) -> bool:
    whole = isinstance(points, list) and len(points) >= 6 and len(points) % 2 == 0
    return whole and all(isinstance(v, int | float) and abs(v) < FARTHEST for v in points)


def _run_lengths(text: str) -> list[int]:
    """The run lengths of COCO's compressed form: a character has five bits of a signed number, and
    a sixth where more follow; from the fourth on they are differences to the one before the last.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 40:
            raise ValueError("has run lengths that are not COCO's")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts
