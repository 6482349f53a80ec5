"""The small real data sets of the team in the official folder layouts, by links; and a signal in
the middle of a training."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from evaluate.detection.views import View, Views


def voc_folder(shared: Path, root: Path, train: int, test: int) -> Path:
    """ROOT in VOC's layout: the first `train` raccoon images to learn from and the next `test`
    ones."""
    source = shared / "raccoon_voc"
    names = sorted(
        (p.stem for p in (source / "annotations").glob("*.xml")), key=lambda n: int(n.split("-")[1])
    )
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "JPEGImages").symlink_to(source / "images")
    (root / "Annotations").symlink_to(source / "annotations")
    for split, chosen in (("trainval", names[:train]), ("test", names[train : train + test])):
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{n}\n" for n in chosen))
    return root


def xml_boxes(file: Path) -> list[list[int]]:
    """[xmin, ymin, xmax, ymax] of each object, read by text search."""
    numbers = re.findall(r"<(xmin|ymin|xmax|ymax)>(\d+)<", file.read_text())
    values = [int(value) for _, value in numbers]
    return [values[i : i + 4] for i in range(0, len(values), 4)]


def coco_folder(shared: Path, root: Path, train: int) -> Path:
    """ROOT in COCO's layout: the first `train` images of coco_json_mini as train2017, the others as
    val2017."""
    source = shared / "coco_json_mini" / "data"
    found = json.loads((source / "trainval.json").read_text())
    (root / "annotations").mkdir(parents=True)
    for split, images in (
        ("train2017", found["images"][:train]),
        ("val2017", found["images"][train:]),
    ):
        (root / split).symlink_to(source / "images")
        chosen = {image["id"] for image in images}
        part = {
            "images": images,
            "categories": found["categories"],
            "annotations": [a for a in found["annotations"] if a["image_id"] in chosen],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(part))
    return root


def signal_at(patch: pytest.MonkeyPatch, number: int, step: int, training: bool = True) -> None:
    """This process gets a signal when an image is read for step `step`, 0 being the first, of the
    training or of the test."""
    original, sent = Views.view, []

    def view(self: Views, at: int, row: int) -> View:
        if (at, self.training) == (step, training) and not sent:
            sent.append(number)
            os.kill(os.getpid(), number)
        return original(self, at, row)

    patch.setattr(Views, "view", view)
