"""Run a detector over annotated images."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.distributed as dist
from faster_coco_eval.core import mask
from torch import nn
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import box_convert
from tqdm import tqdm

from evaluate.detection.annotations import AnnotatedImages
from evaluate.detection.schedules import Runtime, Schedule
from evaluate.detection.views import Views
from train import distributed
from train.features import batches


def detect(
    model: nn.Module, images: AnnotatedImages, schedule: Schedule, runtime: Runtime
) -> list[dict]:
    """Every detection, on every process: image_id, category_id, score, bbox [x, y, w, h] in the
    original image's pixels and, of a model with masks, segmentation (run lengths). One image at a
    time, at schedule.test_scale."""
    model.eval()
    rows = range(distributed.rank(), len(images), distributed.world())
    views = Views(images, schedule, training=False)
    loader = batches(views, runtime.workers, runtime.device, order=[[(0, row)] for row in rows])
    hidden = distributed.rank() > 0
    bar = tqdm(loader, desc="testing", unit="img", leave=False, disable=hidden)
    detections: list[dict] = []
    with torch.inference_mode(), runtime.autocast():
        for row, ((image, _),) in zip(rows, bar, strict=True):
            (output,) = model([runtime.to_input(image)])
            detections += _in_original(images, row, image.shape[1:], output)
    if distributed.world() == 1:
        return detections
    parts: list = [None] * distributed.world()
    dist.all_gather_object(parts, detections)
    return list(itertools.chain(*parts))


def _in_original(
    images: AnnotatedImages, row: int, size: torch.Size, output: dict[str, torch.Tensor]
) -> list[dict]:
    """torchvision's output for image `row` at (h, w) `size`, as detections of the original."""
    height, width = images.size(row)
    scale = torch.tensor([width / size[1], height / size[0]] * 2, device=output["boxes"].device)
    corners = output["boxes"].float() * scale
    boxes = box_convert(corners.double(), "xyxy", "xywh").tolist()
    image, categories = images.truth["images"][row], images.truth["categories"]
    detections = [
        {"image_id": image["id"], "category_id": categories[i - 1]["id"], "score": s, "bbox": box}
        for i, s, box in zip(
            *(output[k].tolist() for k in ("labels", "scores")), boxes, strict=True
        )
    ]
    for i, soft in enumerate(output.get("masks", ())):
        # one at a time: a hundred masks of a whole image at once are gigabytes
        (whole,) = paste_masks_in_image(soft[None].float(), corners[i : i + 1], (height, width))
        code = mask.encode(np.asfortranarray(whole[0].cpu().numpy() > 0.5).view(np.uint8))
        detections[i]["segmentation"] = code | {"counts": code["counts"].decode()}
    return detections
