"""Fine-tune a detector on annotated images.

Scales, flips, order and every draw inside the model come from (seed, step), so the number of
workers and any interruption leave the result as it is: bit for bit on a CPU; on a GPU torchvision's
gradients of regions are added up in any order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from data.cli import UsageError
from evaluate.detection.annotations import AnnotatedImages
from evaluate.detection.schedules import Runtime, Schedule
from evaluate.detection.views import GroupedBatches, View, Views
from evaluate.steps import Training, spread
from train import distributed
from train.batch_norm import spread_batch_norm
from train.features import batches

LossOf = Callable[[list[View], int], torch.Tensor]


def fit(
    model: nn.Module,
    images: AnnotatedImages,
    schedule: Schedule,
    file: Path,
    identity: dict,
    runtime: Runtime,
) -> nn.Module:
    """Train a detector, or continue what `file` holds; a finished file is only loaded.

    Args:
        model: of models.build; with masks where it has a mask head.
        file: the checkpoint; when finished, the detector alone.
        identity: what makes it the same training (JSON-able); schedule and images are added to it.

    Raises:
        UsageError: bad options, an image that cannot be used, a file of another training, or a loss
            that is not finite.
        SystemExit: stopped by a signal, and saved.
    """
    if schedule.batch < distributed.world():
        raise UsageError(
            f"--batch {schedule.batch}: fewer images than the {distributed.world()} processes"
        )
    if not len(images.learnable()):
        raise UsageError(f"{images.name}: no image has an object to learn from")
    identity = {
        **identity,
        **asdict(schedule),
        "images": images.digest(),
        "sync_bn": runtime.sync_bn,
        "classes": images.classes,
        "half": runtime.half,
    }
    model = spread_batch_norm(model, 1, runtime.device) if runtime.sync_bn else model
    model = model.to(runtime.device).train()
    optimizer = torch.optim.SGD(
        _groups(model, schedule.weight_decay), schedule.lr, momentum=schedule.momentum
    )
    training = Training(model, optimizer, file, identity, "detector")
    training.restore()
    if not training.finished:
        _train(training, images, schedule, runtime)
        training.save(finished=True)
    return model.eval()


def _train(
    training: Training, images: AnnotatedImages, schedule: Schedule, runtime: Runtime
) -> None:
    model, device = training.model, runtime.device
    views = Views(images, schedule, True, model.roi_heads.has_mask())
    detector = spread(model, device)

    def loader(start: int, steps: int) -> DataLoader:
        order = GroupedBatches(images, schedule, steps, start)
        return batches(views, runtime.workers, device, order=order)

    def loss_of(batch: list[View], step: int) -> torch.Tensor:
        # torchvision draws boxes to learn from with the global generator; seeded here, a step
        # repeats exactly
        torch.manual_seed((schedule.seed << 40) + (step << 12) + distributed.rank())
        inputs = [runtime.to_input(image) for image, _ in batch]
        targets = [{k: v.to(device) for k, v in target.items()} for _, target in batch]
        with runtime.autocast():
            return sum(detector(inputs, targets).values())

    def rates(step: int) -> list[float]:
        return [schedule.lr * schedule.factor(step)] * 2

    last, name = schedule.iterations, f"detector, seed {schedule.seed}"
    training.run(loader(training.step, last), loss_of, rates, last, runtime.save_every, name)
    _precise_bn(_norms(model), loader(last, last + schedule.precise_bn), loss_of, last)


def _precise_bn(
    norms: list[nn.Module], loader: DataLoader, loss_of: LossOf, first_step: int
) -> None:
    """BatchNorm's statistics as plain means over batches of the finished weights (Wu and Johnson
    2021)."""
    hidden = distributed.rank() > 0
    with torch.no_grad():
        bar = tqdm(loader, desc="norms", unit="batch", leave=False, disable=hidden)
        for done, batch in enumerate(bar):
            for norm in norms:
                norm.momentum = 1 / (done + 1)  # a running mean
            loss_of(batch, first_step + done)


def _norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def _groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Norms without weight decay; everything is trained."""
    norms = [p for norm in _norms(model) for p in norm.parameters()]
    others = set(model.parameters()) - set(norms)
    return [
        {"params": [p for p in model.parameters() if p in others], "weight_decay": weight_decay},
        {"params": norms, "weight_decay": 0.0},
    ]
