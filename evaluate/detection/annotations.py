"""Images and their objects, in COCO's form whatever they were read from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

SMALLEST = 0.01  # pixels: a thinner box has no area once its corners are float32


@dataclass(frozen=True)
class AnnotatedImages:
    """Images and their objects.

    Attributes:
        name: of the data set, for people and the protocol.
        folder: what file names are relative to.
        truth: "images": id, width, height, file_name; "categories": id, name; "annotations": id,
            image_id, category_id, bbox [x, y, w, h] in pixels, area, iscrowd, difficult, perhaps
            segmentation (polygons or run lengths). An object whose `iscrowd` is 1 counts neither as
            detected nor as missed at test; a difficult one is learnt from all the same.
    """

    name: str
    folder: Path
    truth: dict[str, list[dict]]

    def __len__(self) -> int:
        return len(self.truth["images"])

    @property
    def classes(self) -> list[str]:
        """Names, in the order of the categories: label i + 1 is class i, 0 is the background."""
        return [category["name"] for category in self.truth["categories"]]

    def file(self, row: int) -> Path:
        """Path of image `row`."""
        return self.folder / self.truth["images"][row]["file_name"]

    def size(self, row: int) -> tuple[int, int]:
        """(height, width) of image `row` as annotated."""
        image = self.truth["images"][row]
        return image["height"], image["width"]

    @cached_property
    def objects(self) -> list[list[dict]]:
        """What is learnt from in each image: no crowds, no boxes without area."""
        rows = {image["id"]: row for row, image in enumerate(self.truth["images"])}
        objects: list[list[dict]] = [[] for _ in rows]
        for a in self.truth["annotations"]:
            row = rows[a["image_id"]]
            counts = a["difficult"] or not a["iscrowd"]
            if counts and _thickness(a["bbox"], *self.size(row)) > SMALLEST:
                objects[row].append(a)
        return objects

    def learnable(self) -> np.ndarray:
        """Rows of the images with something to learn from, int64."""
        return np.flatnonzero([bool(objects) for objects in self.objects])

    def digest(self) -> str:
        """16 hex digits of the names, sizes and boxes."""
        keys = ("image_id", "category_id", "bbox", "iscrowd")
        boxes = [[a[key] for key in keys] for a in self.truth["annotations"]]
        content = [self.truth["images"], self.truth["categories"], boxes]
        text = json.dumps(content, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _thickness(box: list[float], height: int, width: int) -> float:
    """The shorter side of a box [x, y, w, h], where it lies inside the image."""
    x, y, w, h = box
    return min(min(x + w, width) - max(x, 0), min(y + h, height) - max(y, 0))
