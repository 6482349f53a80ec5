"""Boxes (and outlines) of a set of images, in COCO's form whatever they were read from, and checked
once."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.cli import UsageError
from data.sources.decode import MAX_PIXELS
from data.sources.listing import inside

LARGEST_JSON = 4 << 30  # bytes; COCO's largest has 0.5 GB
SMALLEST = 0.01  # pixels: a thinner box has no area once its corners are float32


@dataclass(frozen=True)
class Annotated:
    """Images and what is in them.

    Attributes:
        name: of the data set, for people and the protocol.
        files: path of each image, in the order of truth["images"].
        truth: COCO's form: "images" (id, width, height, file_name), "categories" (id, name),
            "annotations" (id, image_id, category_id, bbox [x, y, w, h] in pixels, area, iscrowd,
            perhaps segmentation). A box whose `iscrowd` is 1 counts neither as found nor as missed;
            one marked `difficult` is learnt from all the same.
    """

    name: str
    files: list[str]
    truth: dict
    _by_image: dict = field(default_factory=dict, repr=False)

    def __post_init__(self):
        self._by_image.update({image["id"]: [] for image in self.truth["images"]})
        for annotation in self.truth["annotations"]:
            self._by_image[annotation["image_id"]].append(annotation)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def classes(self) -> list[str]:
        """Names, in the order of the categories: label i + 1 is class i, 0 is the background."""
        return [category["name"] for category in self.truth["categories"]]

    def size(self, row: int) -> tuple[int, int]:
        """(height, width) of image `row` as its annotations say."""
        image = self.truth["images"][row]
        return image["height"], image["width"]

    def objects(self, row: int) -> list[dict]:
        """The annotations to learn from in image `row`: no crowds, no boxes without area."""
        height, width = self.size(row)
        return [
            a
            for a in self._by_image[self.truth["images"][row]["id"]]
            if (not a["iscrowd"] or a.get("difficult"))
            and _thickness(a["bbox"], width, height) > SMALLEST
        ]

    def learnable(self) -> np.ndarray:
        """Rows of the images with something to learn from."""
        return np.array([row for row in range(len(self)) if self.objects(row)], np.int64)

    def digest(self) -> str:
        """16 hex digits of the names, sizes and boxes."""
        boxes = [
            (a["image_id"], a["category_id"], a["bbox"], a["iscrowd"])
            for a in self.truth["annotations"]
        ]
        content = json.dumps(
            [self.truth["images"], self.truth["categories"], boxes], sort_keys=True
        )
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def read_coco(
    file: str | os.PathLike, folder: str | os.PathLike, name: str, outlines: bool = False
) -> Annotated:
    """A file in COCO's JSON form, its images below `folder`.

    Args:
        outlines: also check the segmentations, which every object must have then.

    Raises:
        UsageError: no such file, not COCO's form, or an entry that cannot be meant; the first is
            named.
    """
    file = Path(file)
    if not file.is_file():
        raise UsageError(f"{file}: no such file of annotations")
    if file.stat().st_size > LARGEST_JSON:
        raise UsageError(
            f"{file}: more than {LARGEST_JSON >> 30} GiB; no file of annotations is that large"
        )
    try:
        found = json.loads(file.read_bytes())
        images = [
            {
                "id": int(i["id"]),
                "width": int(i["width"]),
                "height": int(i["height"]),
                "file_name": str(i["file_name"]),
            }
            for i in found["images"]
        ]
        categories = sorted(
            ({"id": int(c["id"]), "name": str(c["name"])} for c in found["categories"]),
            key=lambda c: c["id"],
        )
        annotations = [_annotation(a, outlines) for a in found["annotations"]]
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise UsageError(f"{file}: not COCO's form ({type(error).__name__}: {error})") from error
    _check(file, images, categories, annotations, outlines)
    return Annotated(
        name,
        [os.path.join(folder, image["file_name"]) for image in images],
        {"images": images, "categories": categories, "annotations": annotations},
    )


def _annotation(a: dict, outlines: bool) -> dict:
    box = [float(v) for v in a["bbox"]]
    if len(box) != 4:
        raise ValueError(f"annotation {a['id']}: a bbox has four numbers")
    made = {
        "id": int(a["id"]),
        "image_id": int(a["image_id"]),
        "category_id": int(a["category_id"]),
        "bbox": box,
        "area": float(a.get("area", box[2] * box[3])),
        "iscrowd": int(a.get("iscrowd", 0)),
    }
    return made | ({"segmentation": a["segmentation"]} if outlines else {})


def _check(
    file: Path, images: list[dict], categories: list[dict], annotations: list[dict], outlines: bool
) -> None:
    for what, entries in (
        ("images", images),
        ("categories", categories),
        ("annotations", annotations),
    ):
        if not entries:
            raise UsageError(f"{file}: it has no {what}")
        if len({e["id"] for e in entries}) < len(entries):
            raise UsageError(f"{file}: two {what} have the same id")
    for image in images:
        if (
            min(image["width"], image["height"]) < 1
            or image["width"] * image["height"] > MAX_PIXELS
        ):
            raise UsageError(
                f"{file}: image {image['id']} is said to have {image['width']}x{image['height']} pixels"
            )
        if not inside(os.fsencode(image["file_name"])):
            raise UsageError(
                f"{file}: file_name {image['file_name'][:200]!r} is not a path below the image folder"
            )
    sizes, known = (
        {i["id"]: (i["height"], i["width"]) for i in images},
        {c["id"] for c in categories},
    )
    for a in annotations:
        if a["image_id"] not in sizes or a["category_id"] not in known:
            raise UsageError(
                f"{file}: annotation {a['id']} is of image {a['image_id']} and category "
                f"{a['category_id']}, which are not both in it"
            )
        if not all(map(math.isfinite, [*a["bbox"], a["area"]])) or min(a["bbox"][2:]) < 0:
            raise UsageError(f"{file}: annotation {a['id']} has the box {a['bbox']}")
        if outlines and not _is_outline(a["segmentation"], *sizes[a["image_id"]]):
            raise UsageError(
                f"{file}: annotation {a['id']} has no outline: polygons, or counts as a list that add up "
                "to the image's pixels"
            )


def _is_outline(outline, height: int, width: int) -> bool:
    """Polygons, or run lengths as COCO's files have them; what compiled code is given must not lie
    about sizes."""
    if isinstance(outline, dict):
        counts = outline.get("counts")
        return (
            list(outline.get("size", ())) == [height, width]
            and isinstance(counts, list)
            and all(type(c) is int and c >= 0 for c in counts)
            and sum(counts) == height * width
        )
    return (
        isinstance(outline, list)
        and len(outline) > 0
        and all(
            isinstance(p, list)
            and len(p) >= 6
            and len(p) % 2 == 0
            and all(isinstance(v, int | float) and abs(v) < 1e5 for v in p)
            for p in outline
        )
    )


def _thickness(box: list[float], width: int, height: int) -> float:
    """The shorter side of a box [x, y, w, h], where it lies inside the image."""
    x, y, w, h = box
    return min(min(x + w, width) - max(x, 0), min(y + h, height) - max(y, 0))
