"""Images and their objects, in COCO's form whatever they were read from."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from data.cli import UsageError
from data.sources.listing import files_below

SHOWN = 5  # names of missing files that an error gives


@dataclass(frozen=True)
class AnnotatedImages:
    """Images and their objects.

    Attributes:
        name: of the data set, for people and the protocol.
        folder: what file names are relative to.
        truth: "images": id, width, height, file_name; "categories": id, name; "annotations": id,
            image_id, category_id, bbox [x, y, w, h] in pixels, area, iscrowd, learnt, perhaps
            segmentation (polygons or run lengths). An object whose `iscrowd` is 1 counts neither as
            detected nor as missed at test; `learnt` says whether it is learnt from.
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
        """What is learnt from in each image."""
        objects: dict[int, list[dict]] = {image["id"]: [] for image in self.truth["images"]}
        for a in self.truth["annotations"]:
            if a["learnt"]:
                objects[a["image_id"]].append(a)
        return list(objects.values())

    def learnable(self) -> np.ndarray:
        """Rows of the images with something to learn from, int64."""
        return np.flatnonzero([bool(objects) for objects in self.objects])

    def require_files(self, rows: np.ndarray) -> None:
        """UsageError where there is no file of one of these images."""
        there = {os.fsdecode(path) for path in files_below(os.fspath(self.folder))}
        names = [self.truth["images"][row]["file_name"] for row in rows.tolist()]
        absent = [name for name in names if name not in there and not (self.folder / name).exists()]
        if absent:
            raise UsageError(
                f"{self.folder}: lacks {len(absent)} of {len(names)} images of {self.name}: "
                f"{', '.join(absent[:SHOWN])} ..."
            )

    def digest(self) -> str:
        """16 hex digits of the names, sizes and boxes."""
        keys = ("image_id", "category_id", "bbox", "iscrowd")
        boxes = [[a[key] for key in keys] for a in self.truth["annotations"]]
        content = [self.truth["images"], self.truth["categories"], boxes]
        text = json.dumps(content, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
