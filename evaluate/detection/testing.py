"""Run a detector over annotated images."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.distributed as dist
from faster_coco_eval.core import mask
from torch import nn
from torchvision.models.detection.roi_heads import paste_masks_in_image
from tqdm import tqdm

from evaluate.detection.annotations import AnnotatedImages
from evaluate.detection.schedules import Runtime, Schedule
from evaluate.detection.views import View, Views
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
    detections: list[dict] = []
    with torch.inference_mode(), runtime.autocast():
        for (view,) in tqdm(loader, desc="testing", unit="img", leave=False, disable=hidden):
            (output,) = model([runtime.to_input(view.image)])
            detections += _in_original(images, view, output)
    if distributed.world() == 1:
        return detections
    parts: list = [None] * distributed.world()
    dist.all_gather_object(parts, detections)
    return list(itertools.chain(*parts))


def _in_original(
    images: AnnotatedImages, view: View, output: dict[str, torch.Tensor]
) -> list[dict]:
    """torchvision's output for a view as detections of the original image."""
    height, width = images.size(view.row)
    h, w = view.image.shape[1:]
    scale = torch.tensor([width / w, height / h] * 2, device=output["boxes"].device)
    corners = output["boxes"].float() * scale
    boxes = corners.cpu().numpy().astype(float)
    boxes[:, 2:] -= boxes[:, :2]
    categories = images.truth["categories"]
    detections = []
    for i, label in enumerate(output["labels"].tolist()):
        detection = {
            "image_id": images.truth["images"][view.row]["id"],
            "category_id": categories[label - 1]["id"],
            "score": float(output["scores"][i]),
            "bbox": boxes[i].tolist(),
        }
        if "masks" in output:
            # one at a time: a hundred masks of a whole image at once are gigabytes
            part = slice(i, i + 1)
            soft = paste_masks_in_image(
                output["masks"][part].float(), corners[part], (height, width)
            )
            code = mask.encode(np.asfortranarray(soft[0, 0].cpu().numpy() > 0.5).view(np.uint8))
            detection["segmentation"] = code | {"counts": code["counts"].decode()}
        detections.append(detection)
    return detections
