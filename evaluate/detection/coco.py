"""COCO's form of annotations: what is unambiguous is read, whatever tool wrote it; single broken
objects are left out and counted."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from faster_coco_eval.core import mask

from data.cli import UsageError, note
from data.io import is_system
from data.sources.decode import MAX_PIXELS, ImageError, image_size
from data.sources.images import read_bytes
from data.sources.listing import inside
from evaluate.detection.annotations import AnnotatedImages

LARGEST = 4 << 30  # bytes; COCO's largest file of annotations has 0.5 GB
FARTHEST = 1e6  # pixels: no coordinate is meant to reach farther
THINNEST = 0.01  # pixels: a thinner box has no area once its corners are float32
DIGITS = 18  # of a whole number that is an id
MALFORMED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def read_coco(file: Path, folder: Path, name: str, outlines: bool = False) -> AnnotatedImages:
    """A file in COCO's JSON form, its images below `folder`; see from_coco.

    Raises:
        UsageError: what from_coco says, with the file's name.
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
        UsageError: no images, categories or annotations, most of these are broken, or boxes in
            another convention.
        MALFORMED: not COCO's form.
    """
    for key in ("images", "categories", "annotations"):
        if not isinstance(content, dict) or not content.get(key):
            raise UsageError(f"it has no {key}; COCO's form is {{images, categories, annotations}}")
    numbered = _numbered("images", content["images"])
    images = {k: image for k, entry in numbered.items() if (image := _image(entry, folder))}
    if len(images) < len(numbered):
        note(f"{name}: left out {len(numbered) - len(images)} files of the system or of tools")
    categories = _numbered("categories", content["categories"])
    objects, broken = [], []
    for place, entry in enumerate(content["annotations"], 1):
        try:
            a = _object(entry, images, categories, outlines)
            objects.append({"id": len(objects) + 1, **a})
        except MALFORMED as error:
            which = entry.get("id", place) if isinstance(entry, dict) else place
            broken.append(f"annotation {which} {error}")
    if broken:
        count = f"{len(broken)} of {len(broken) + len(objects)} objects, the first: {broken[0]}"
        if len(broken) > len(objects):
            raise UsageError(f"cannot use {count}")
        note(f"{name}: left out {count}")
    _require_pixels(objects, images.values())
    truth = {
        "images": list(images.values()),
        "categories": _named(categories),
        "annotations": objects,
    }
    return AnnotatedImages(name, folder, truth)


def _require_pixels(objects: list[dict], images: Iterable[dict]) -> None:
    """UsageError where the boxes as a whole are not [x, y, width, height] in pixels."""
    sides = {image["id"]: (image["width"], image["height"]) for image in images}
    boxes = np.array([a["bbox"] for a in objects])
    start, size = boxes[:, :2], boxes[:, 2:]
    most = 1.02 * np.array([sides[a["image_id"]] for a in objects])
    if (start + size < 1.5).all():
        raise UsageError("all boxes lie within 1.5 pixels; are they shares? Pixels are needed")
    # [x1, y1, x2, y2] has its second corner after the first and in the image
    as_corners = ((start <= size) & (size <= most)).all(1).mean()
    if as_corners > 0.95 and (start + size > most).any(1).mean() > 0.1:
        raise UsageError(
            "many boxes reach beyond their images; corners? COCO's are [x, y, width, height]"
        )


def _key(value: object) -> str:
    """An id as text, the same of 7, 7.0, "7" and "007"."""
    text = str(value).removesuffix(".0")
    return str(int(text)) if text.isdecimal() and len(text) <= DIGITS else text


def _numbered(what: str, entries: list[dict]) -> dict[str, dict]:
    """Entries by their ids as text, with numbers for ids: the id itself where all are whole
    numbers, else counted from 1. An entry that stands twice is one."""
    unique: dict[str, dict] = {}
    for entry in entries:
        if unique.setdefault(_key(entry["id"]), entry) != entry:
            raise UsageError(f"two {what} have the same id, {entry['id']!r}")
    ordered = sorted(unique, key=lambda key: (len(key), key))
    numbers = {key: place for place, key in enumerate(ordered, 1)}
    if all(key.isdecimal() and len(key) <= DIGITS for key in unique):
        numbers = {key: int(key) for key in unique}
    return {key: {**entry, "id": numbers[key]} for key, entry in unique.items()}


def _named(categories: dict[str, dict]) -> list[dict]:
    """Id and name of each, by id; names that are not alone say the id too."""
    count = Counter(str(entry["name"]) for entry in categories.values())
    named = []
    for entry in sorted(categories.values(), key=lambda entry: entry["id"]):
        name = str(entry["name"])
        name += f" (id {entry['id']})" * (count[name] > 1)
        named.append({"id": entry["id"], "name": name})
    return named


def _image(entry: dict, folder: Path) -> dict | None:
    """None for a file of the system or of a tool."""
    name = os.path.normpath(str(entry["file_name"]))
    if not inside(os.fsencode(name)):
        raise UsageError(f"file_name {name[:200]!r} is not a path below the image folder")
    if any(map(is_system, name.split("/"))):
        return None
    height, width = _size(folder / name, entry.get("height"), entry.get("width"))
    return {"id": entry["id"], "width": width, "height": height, "file_name": name}


def _size(file: Path, height: object, width: object) -> tuple[int, int]:
    """(height, width) as annotated; where that is no size in pixels, as the image's header says."""
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        sides = int(float(height)), int(float(width))
        if min(sides) > 0 and sides[0] * sides[1] <= MAX_PIXELS:
            return sides
    try:
        own_width, own_height = image_size(read_bytes("", os.fsencode(file)))
        if own_width * own_height > MAX_PIXELS:
            raise ImageError("too_large", f"it has {own_width}x{own_height}, over {MAX_PIXELS}")
    except ImageError as error:
        what = f"its annotation says {width}x{height} pixels"
        raise UsageError(f"{file}: {what}, and {error}") from error
    return own_height, own_width


def _object(
    entry: dict, images: dict[str, dict], categories: dict[str, dict], outlines: bool
) -> dict:
    """An object; one of MALFORMED where it is broken."""
    image, category = _key(entry.get("image_id")), _key(entry.get("category_id"))
    if image not in images or category not in categories:
        raise ValueError(
            f"is of image {image!r} and category {category!r}, which are not both there"
        )
    box = [float(v) for v in entry.get("bbox") or ()]
    if len(box) != 4 or not all(abs(v) < FARTHEST for v in box) or min(box[2:]) < 0:
        raise ValueError(f"has the box {box}, not [x, y, width, height] in pixels")
    height, width = images[image]["height"], images[image]["width"]
    x, y, w, h = box
    inner = min(min(x + w, width) - max(x, 0), min(y + h, height) - max(y, 0))
    if inner < 0:
        raise ValueError(f"has the box {box}, outside of its image of {width}x{height} pixels")
    area = entry.get("area")
    known = isinstance(area, int | float) and 0 <= area < float("inf")
    crowd = int(entry.get("iscrowd") or 0)
    a = {
        "image_id": images[image]["id"],
        "category_id": categories[category]["id"],
        "bbox": box,
        "area": float(area) if known else w * h,
        "iscrowd": crowd,
        # a difficult object of VOC is a crowd that is learnt from
        "learnt": inner > THINNEST and (not crowd or bool(entry.get("difficult"))),
    }
    if outlines:
        a["segmentation"] = _outline(entry.get("segmentation"), height, width)
    return a


def _outline(outline: object, height: int, width: int) -> list | dict:
    """Polygons, or run lengths, plain or compressed, such as compiled code can take. ValueError for
    anything else."""
    with contextlib.suppress(*MALFORMED):
        if isinstance(outline, dict):
            if outline["size"] == [height, width]:
                mask.decode(mask.segmToRle(outline, width, height))  # checks that they add up
                return outline
        else:
            polygons = outline if isinstance(outline[0], list) else [outline]
            polygons = [np.asarray(points, float) for points in polygons]
            if all(_is_polygon(points) for points in polygons):
                return [points.tolist() for points in polygons]
    raise ValueError(
        "has no outline: polygons of three points and more, or run lengths that add up to the "
        "image's pixels"
    )


def _is_polygon(points: np.ndarray) -> bool:
    whole = points.ndim == 1 and len(points) >= 6 and len(points) % 2 == 0
    return whole and bool((np.abs(points) < FARTHEST).all())
