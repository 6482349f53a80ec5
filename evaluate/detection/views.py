"""What a detector is given of an image: resized and perhaps flipped, with its boxes and masks; and
in which order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from faster_coco_eval.core import mask as masks
from torch.utils.data import Dataset, Sampler

from data.sources.decode import ImageError, decode
from data.sources.images import read_bytes
from evaluate.detection.annotations import Annotated
from evaluate.detection.schedules import Schedule
from evaluate.features import BadImage
from train import distributed
from train.streams import ORDER, VIEW, stream


@dataclass(frozen=True)
class View:
    """An image and its objects, as tensors on the CPU.

    Attributes:
        image: (h, w, 3) uint8.  boxes: (n, 4) float32, left, top, right, bottom in its pixels.
        labels: (n,) int64 from 1.  masks: (n, h, w) uint8 0 or 1, or None.
        row: which image.  original: (height, width) before resizing.
    """

    image: torch.Tensor
    boxes: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor | None
    row: int
    original: tuple[int, int]

    def target(self, device: torch.device) -> dict:
        """What torchvision's models learn from."""
        values = {"boxes": self.boxes, "labels": self.labels} | (
            {} if self.masks is None else {"masks": self.masks}
        )
        return {key: value.to(device, non_blocking=True) for key, value in values.items()}


class Views(Dataset):
    """Views of annotated images; items are (step, row): scale and flip come from (seed, step, row)
    alone.

    Args:
        training: random scale and flip; otherwise schedule.test_scale, and no objects.
        outlines: with masks.
    """

    def __init__(
        self, images: Annotated, schedule: Schedule, training: bool, outlines: bool = False
    ):
        self.images, self.schedule, self.training, self.outlines = (
            images,
            schedule,
            training,
            outlines,
        )
        self.labels = {c["id"]: i for i, c in enumerate(images.truth["categories"], 1)}

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, items: list[tuple[int, int]]) -> list[View]:
        return [self.view(*item) for item in items]

    def view(self, step: int, row: int) -> View:
        """UsageError, with its name, for an image that cannot be decoded or has another size than
        annotated."""
        file, (height, width) = self.images.files[row], self.images.size(row)
        try:
            image = decode(read_bytes("", os.fsencode(file)))
        except ImageError as error:
            raise BadImage(f"{file}: {error}; remove or repair that image") from None
        if image.shape[:2] != (height, width):
            raise BadImage(
                f"{file}: has {image.shape[1]}x{image.shape[0]} pixels, its annotation says "
                f"{width}x{height}; correct one of them"
            )
        rng = stream(VIEW, self.schedule.seed, step, row)
        short = int(rng.choice(self.schedule.scales)) if self.training else self.schedule.test_scale
        flip = self.training and rng.random() < 0.5
        h, w = resized(height, width, short, self.schedule.longest)
        image = cv2.resize(
            image, (w, h), interpolation=cv2.INTER_AREA if h < height else cv2.INTER_LINEAR
        )
        objects = self.images.objects(row) if self.training else []
        scale = np.array([w / width, h / height])
        boxes = np.array([a["bbox"] for a in objects], float).reshape(-1, 2, 2)
        boxes = np.stack([boxes[:, 0], boxes.sum(1)], 1) * scale  # corners
        boxes = boxes.clip(0, [w, h])
        outlines = (
            np.stack([_mask(a["segmentation"], h, w, scale) for a in objects])
            if self.outlines and objects
            else None
        )
        if flip:
            image, boxes[..., 0] = image[:, ::-1], w - boxes[:, ::-1, 0]
            outlines = None if outlines is None else outlines[..., ::-1]
        labels = torch.tensor([self.labels[a["category_id"]] for a in objects], dtype=torch.int64)
        return View(
            torch.from_numpy(np.ascontiguousarray(image)),
            torch.from_numpy(boxes.reshape(-1, 4)).float(),
            labels,
            None if outlines is None else torch.from_numpy(np.ascontiguousarray(outlines)),
            row,
            (height, width),
        )


class Order(Sampler):
    """Each step's (step, row) items of this process, from step `start` on.

    Images are drawn epoch after epoch in an order of (seed, epoch), and a batch has only upright or
    only wide ones, so that little is padding. It does not depend on the number of processes: each
    takes its part of every batch.
    """

    def __init__(self, images: Annotated, schedule: Schedule, steps: int, start: int = 0):
        self.rows, self.schedule, self.steps, self.start = (
            images.learnable(),
            schedule,
            steps,
            start,
        )
        self.wide = [image["width"] > image["height"] for image in images.truth["images"]]

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step, epoch, waiting = 0, 0, ([], [])
        while step < self.steps:
            for row in self.rows[
                stream(ORDER, self.schedule.seed, epoch).permutation(len(self.rows))
            ].tolist():
                group = waiting[self.wide[row]]
                group.append(row)
                if len(group) < self.schedule.batch:
                    continue
                if self.start <= step < self.steps:
                    mine = np.array_split(group, distributed.world())[distributed.rank()]
                    yield [(step, int(r)) for r in mine]
                group.clear()
                step += 1
            epoch += 1


def resized(height: int, width: int, short: int, longest: int) -> tuple[int, int]:
    """(height, width) with the short side `short`, or less where the long one would pass
    `longest`."""
    scale = min(short / min(height, width), longest / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def _mask(outline: list | dict, height: int, width: int, scale: np.ndarray) -> np.ndarray:
    """(height, width) uint8 of an outline that was checked when it was read; polygons are drawn at
    this size."""
    if isinstance(outline, dict):
        whole = np.repeat(np.arange(len(outline["counts"])) % 2, outline["counts"]).astype(np.uint8)
        return cv2.resize(
            whole.reshape(outline["size"][::-1]).T, (width, height), interpolation=cv2.INTER_NEAREST
        )
    polygons = [
        (np.array(p, float).reshape(-1, 2) * scale).clip(0, [width, height]).ravel().tolist()
        for p in outline
    ]
    return masks.decode(masks.merge(masks.frPyObjects(polygons, height, width)))
