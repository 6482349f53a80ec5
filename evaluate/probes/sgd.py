"""Train a classifier on a backbone by SGD on random crops: a linear one on frozen features, or the
whole network.

Crops and order depend on (seed, epoch, index) only, so the number of workers or processes and any
interruption leave the result as it is; the state is saved every epoch and on Ctrl-C, and the same
command continues.
"""

import copy
import hashlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from evaluate.features import Encoder, accuracies
from evaluate.probes.schedule import Order, RandomCrops, Schedule
from evaluate.steps import Plan, Training, spread
from train import distributed
from train.batch_norm import spread_batch_norm
from train.features import Labelled, batches, forward


class Classifier(nn.Module):
    """A backbone, frozen or not, and a linear layer on its pooled features."""

    def __init__(self, encoder: Encoder, classes: int, schedule: Schedule):
        super().__init__()
        self.device, self.finetune = encoder.device, schedule.finetune
        self.backbone = copy.deepcopy(encoder.model) if self.finetune else encoder.model
        self.backbone.requires_grad_(self.finetune).eval()
        self.fc = schedule.layer(encoder.dimensions, classes).to(self.device)

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """(B, C) logits of (B, s, s, 3) uint8; in bf16 on a GPU up to fc, which learns at rates
        like 30. B may be 0: a process may have no part in a small last batch."""
        with torch.set_grad_enabled(self.finetune and torch.is_grad_enabled()):
            features = forward(self.backbone, crops, self.device)
        return self.fc(features)


def fit(
    encoder: Encoder,
    images: Labelled,
    schedule: Schedule,
    file: Path,
    rows: np.ndarray | None = None,
    workers: int = 0,
) -> Classifier:
    """Train a classifier, or continue what `file` holds; a finished file is only loaded.

    Args:
        file: the checkpoint; when finished, the classifier (fc.weight (C, D), fc.bias (C,)).
        rows: of the images to train on (n,), or all.

    Raises:
        UsageError: bad options, an image that cannot be decoded, a file of another training, or a
            loss that diverges.
        SystemExit: stopped by a signal, and saved.
    """
    schedule.check()
    rows = np.arange(len(images)) if rows is None else rows
    before = fingerprint(encoder.model)
    model = Classifier(encoder, len(images.classes), schedule)
    trained = [model.fc, model.backbone] if schedule.finetune else [model.fc]
    identity = {
        **asdict(schedule),
        "weights": encoder.digest,
        "images": images.digest(),
        "classes": images.classes,
        "labels": hashlib.blake2b(rows.tobytes(), digest_size=8).hexdigest(),
        "size": encoder.size,
    }
    training = Training(
        model if schedule.finetune else model.fc,
        schedule.optimizer(*trained),
        file,
        identity,
        "classifier",
        "lower --head-lr and --backbone-lr" if schedule.finetune else "lower --lr",
    )
    training.restore()
    if not training.finished:
        _train(model, training, schedule, RandomCrops(images, rows, schedule.seed), workers)
        training.save(finished=True)
    if fingerprint(encoder.model) != before:
        raise AssertionError("the frozen backbone changed while the classifier was trained")
    return model.eval()


def _train(
    model: Classifier, training: Training, schedule: Schedule, crops: RandomCrops, workers: int
) -> None:
    order = Order(len(crops.rows), schedule, training.step)
    if schedule.finetune and distributed.world() > 1:
        model.backbone = spread_batch_norm(model.backbone, 1, model.device)
    spread_model = spread(model, model.device)
    model.train(schedule.finetune)

    def loss_of(batch: tuple[torch.Tensor, torch.Tensor], step: int) -> torch.Tensor:
        images, labels = batch
        whole = min(schedule.batch, order.count - step % order.steps * schedule.batch)
        logits = spread_model(images)
        loss = F.cross_entropy(logits, labels.to(logits.device), reduction="sum")
        # the mean over processes is then the mean over the global batch, however it is cut
        return loss * (distributed.world() / whole)

    def rates(step: int) -> list[float]:
        factor = schedule.factor(step, order.steps)
        groups = training.optimizer.param_groups
        return [rate * factor for rate in (schedule.lr, schedule.backbone_lr)[: len(groups)]]

    name = f"{'fine-tuning' if schedule.finetune else 'linear'}, seed {schedule.seed}"
    plan = Plan(order.steps * schedule.epochs, order.steps, rates, name)
    training.run(batches(crops, workers, model.device, order=order), loss_of, plan)


def evaluate(model: Classifier, images: Labelled, batch: int = 256, workers: int = 0) -> dict:
    """Accuracy in percent, as evaluate.features.accuracies."""
    rows = np.arange(distributed.rank(), len(images), distributed.world())
    order = [rows[i : i + batch].tolist() for i in range(0, len(rows), batch)]
    loader = batches(images, workers, model.device, order=order)
    hidden = distributed.rank() > 0
    best = torch.zeros(len(images), min(5, len(images.classes)), dtype=torch.long)
    with torch.inference_mode():
        bar = tqdm(loader, "testing", len(order), leave=False, unit="batch", disable=hidden)
        for some, crops in zip(order, bar, strict=True):
            best[some] = model(crops).topk(best.shape[1]).indices.cpu()
    right = distributed.total(best).numpy() == images.labels[:, None]
    return accuracies(right, images.labels, images.classes)


def fingerprint(model: nn.Module) -> str:
    """Of every weight and buffer, bit by bit."""
    digest = hashlib.blake2b(digest_size=16)
    for key, value in model.state_dict().items():
        digest.update(key.encode())
        content = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(content.numpy().tobytes())
    return digest.hexdigest()
