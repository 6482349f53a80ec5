"""Run a detector over annotated images and give what it found in COCO's form."""

from __future__ import annotations

import json

import numpy as np
import torch
import torch.distributed as dist
from faster_coco_eval.core import mask as masks
from torch import nn
from torchvision.models.detection.roi_heads import paste_masks_in_image
from tqdm import tqdm

from evaluate.detection.annotations import Annotated
from evaluate.detection.models import pixels
from evaluate.detection.schedules import Schedule
from evaluate.detection.views import View, Views
from evaluate.features import batches
from train import distributed


def detect(
    model: nn.Module,
    images: Annotated,
    schedule: Schedule,
    device: torch.device,
    workers: int = 0,
    half: bool = False,
) -> list[dict]:
    """Every detection, on every process: image_id, category_id, score, bbox [x, y, w, h] and, of a
    model with masks, segmentation (run lengths). One image at a time, at schedule.test_scale."""
    model.eval()
    rows = range(distributed.rank(), len(images), distributed.world())
    found = []
    with (
        torch.inference_mode(),
        torch.autocast(device.type, torch.bfloat16, enabled=half and device.type == "cuda"),
        tqdm(
            total=len(rows), desc="testing", unit="img", leave=False, disable=distributed.rank() > 0
        ) as bar,
    ):
        for views in batches(
            Views(images, schedule, False), workers, device, order=[[(0, row)] for row in rows]
        ):
            for view, result in zip(views, _run(model, views, device), strict=True):
                found += _as_coco(images, view.row, view.original, result)
            bar.update(len(views))
    return _gather(found, device)


def _run(model: nn.Module, views: list[View], device: torch.device) -> list[dict]:
    """The model's detections in the pixels of the original images."""
    inputs, _ = model.transform([pixels(view.image, device) for view in views])
    features = model.backbone(inputs.tensors)
    if isinstance(features, torch.Tensor):
        features = {"0": features}
    proposals, _ = model.rpn(inputs, features)
    results, _ = model.roi_heads(features, proposals, inputs.image_sizes)
    for view, result in zip(views, results, strict=True):
        (height, width), (h, w, _) = view.original, view.image.shape
        result["boxes"] = result["boxes"].float() * torch.tensor(
            [width / w, height / h] * 2, device=device
        )
    return results


def _as_coco(images: Annotated, row: int, size: tuple[int, int], result: dict) -> list[dict]:
    image, categories = (
        images.truth["images"][row]["id"],
        [c["id"] for c in images.truth["categories"]],
    )
    boxes = result["boxes"].cpu().numpy().astype(float)
    boxes[:, 2:] -= boxes[:, :2]
    found = [
        {"image_id": image, "category_id": categories[label - 1], "score": score, "bbox": box}
        for box, label, score in zip(
            boxes.tolist(), result["labels"].tolist(), result["scores"].tolist(), strict=True
        )
    ]
    if "masks" in result:
        # one at a time: a hundred masks of a whole image at once are gigabytes
        for i, entry in enumerate(found):
            whole = (
                paste_masks_in_image(
                    result["masks"][i : i + 1].float(), result["boxes"][i : i + 1], size
                )[0, 0]
                > 0.5
            )
            code = masks.encode(np.asfortranarray(whole.cpu().numpy().astype(np.uint8)))
            entry["segmentation"] = {"size": list(size), "counts": code["counts"].decode()}
    return found


def _gather(found: list[dict], device: torch.device) -> list[dict]:
    """Every process's detections, in the order of the processes; as JSON, so that nothing is
    unpickled."""
    if distributed.world() == 1:
        return found
    mine = torch.frombuffer(bytearray(json.dumps(found).encode()), dtype=torch.uint8).to(device)
    lengths = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(distributed.world())]
    dist.all_gather(lengths, torch.tensor([len(mine)], device=device))
    longest = max(int(n) for n in lengths)
    parts = [torch.zeros(longest, dtype=torch.uint8, device=device) for _ in lengths]
    dist.all_gather(parts, torch.nn.functional.pad(mine, (0, longest - len(mine))))
    return [
        entry
        for part, n in zip(parts, lengths, strict=True)
        for entry in json.loads(bytes(part[: int(n)].cpu().numpy()))
    ]
