"""What a detector is given of an image: resized and perhaps flipped, with its boxes and masks; and
in which order."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from faster_coco_eval.core import mask
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from data.sources.decode import ImageError, decode
from data.sources.images import read_bytes
from evaluate.detection.annotations import AnnotatedImages
from evaluate.detection.schedules import Schedule
from train import distributed
from train.features import BadImage
from train.streams import ORDER, VIEW, stream

# an image, (3, h, w) uint8 on the CPU, and what torchvision's models learn from: boxes (n, 4)
# float32, left, top, right, bottom in its pixels; labels (n,) int64 from 1; perhaps masks (n, h, w)
# uint8 0 or 1
View = tuple[torch.Tensor, dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Views(Dataset):
    """Views of annotated images; items are (step, row): scale and flip come from (seed, step, row)
    alone.

    Attributes:
        training: random scale and flip; otherwise schedule.test_scale, and no objects.
        outlines: with masks.
    """

    images: AnnotatedImages
    schedule: Schedule
    training: bool
    outlines: bool = False

    @property
    def size(self) -> int:
        """The longest side of a view, in pixels."""
        return self.schedule.longest

    def __getitems__(self, items: list[tuple[int, int]]) -> list[View]:
        return [self.view(*item) for item in items]

    def view(self, step: int, row: int) -> View:
        """A view. BadImage, with its name, for an image that cannot be decoded or has another size
        than annotated."""
        rng = stream(VIEW, self.schedule.seed, step, row)
        short = int(rng.choice(self.schedule.scales)) if self.training else self.schedule.test_scale
        flip = self.training and rng.random() < 0.5
        height, width = self.images.size(row)
        size = resized(height, width, short, self.schedule.longest)
        transform = v2.Compose(
            [
                v2.Resize(size),
                v2.RandomHorizontalFlip(float(flip)),
                v2.ConvertBoundingBoxFormat("XYXY"),
                v2.ClampBoundingBoxes(),
                v2.ToPureTensor(),
            ]
        )
        target = self._target(row, size) if self.training else {}
        return transform(self._read(row), target)

    def _read(self, row: int) -> tv_tensors.Image:
        file = self.images.file(row)
        height, width = self.images.size(row)
        try:
            image = decode(read_bytes("", os.fsencode(file)))
        except ImageError as error:
            raise BadImage(f"{file}: {error}; remove or repair that image") from None
        if image.shape[:2] != (height, width):
            raise BadImage(
                f"{file}: has {image.shape[1]}x{image.shape[0]} pixels, its annotation says "
                f"{width}x{height}; correct one of them"
            )
        return tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1))

    def _target(self, row: int, size: tuple[int, int]) -> dict[str, torch.Tensor]:
        """Boxes in the image's own pixels, and masks at the size that it will have."""
        objects, original = self.images.objects[row], self.images.size(row)
        boxes = torch.tensor([a["bbox"] for a in objects], dtype=torch.float32)
        ids = [category["id"] for category in self.images.truth["categories"]]
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYWH", canvas_size=original),
            "labels": torch.tensor([1 + ids.index(a["category_id"]) for a in objects]),
        }
        if self.outlines:
            masks = [_mask(a["segmentation"], original, size) for a in objects]
            target["masks"] = tv_tensors.Mask(np.stack(masks))
        return target


def _mask(outline: list | dict, original: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """(h, w) uint8 of an outline; polygons are drawn at this size, which is more exact than what
    transforms.v2 would resize."""
    height, width = size
    if isinstance(outline, dict):
        whole = mask.decode(mask.segmToRle(outline, *original[::-1]))
        return cv2.resize(whole, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    scale = width / original[1], height / original[0]
    polygons = [(np.reshape(points, (-1, 2)) * scale).ravel().tolist() for points in outline]
    return mask.decode(mask.segmToRle(polygons, width, height))


@dataclass(frozen=True)
class GroupedBatches:
    """Each step's (step, row)s of this process, from step `start` on: batches of wide images or of
    upright ones, in an order that depends on (seed, epoch) alone, however many processes: each
    takes its part of every batch."""

    images: AnnotatedImages
    schedule: Schedule
    steps: int
    start: int = 0

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for step, group in zip(range(self.steps), self._groups(), strict=False):
            if step >= self.start:
                part = np.array_split(group, distributed.world())[distributed.rank()]
                yield [(step, int(row)) for row in part]

    def _groups(self) -> Iterator[list[int]]:
        """Rows of one batch after the other, without end."""
        rows, waiting = self.images.learnable(), ([], [])
        for epoch in itertools.count():
            order = stream(ORDER, self.schedule.seed, epoch).permutation(len(rows))
            for row in rows[order].tolist():
                height, width = self.images.size(row)
                group = waiting[width > height]
                group.append(row)
                if len(group) == self.schedule.batch:
                    yield list(group)
                    group.clear()


def resized(height: int, width: int, short: int, longest: int) -> tuple[int, int]:
    """(height, width) with the short side `short`, or less where the long one would pass `longest`;
    rounded as detectron2 does."""
    scale = min(short / min(height, width), longest / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
