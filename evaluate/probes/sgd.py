"""Train a classifier on a backbone by SGD on random crops: a linear one on frozen features, or the
whole network.

Crops and order depend on (seed, epoch, index) only, so the number of workers or processes and any
interruption leave the result as it is; the state is saved every epoch and on Ctrl-C, and the same
command continues.
"""

from __future__ import annotations

import copy
import hashlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Subset
from tqdm import tqdm

from evaluate.features import Encoder
from evaluate.probes.schedule import Order, RandomCrops, Schedule
from evaluate.steps import Plan, Training, spread
from train import distributed
from train.batch_norm import spread_batch_norm
from train.features import Labelled, batches, to_input


class Classifier(nn.Module):
    """A backbone, frozen or not, and a linear layer on its pooled features."""

    def __init__(self, encoder: Encoder, classes: int, schedule: Schedule):
        super().__init__()
        self.device, self.finetune = encoder.device, schedule.finetune
        self.backbone = copy.deepcopy(encoder.model) if self.finetune else encoder.model
        self.backbone.requires_grad_(self.finetune).eval()
        with torch.no_grad():
            dim = self.backbone(torch.zeros(1, 3, 64, 64, device=self.device)).shape[1]
        self.fc = nn.Linear(dim, classes)
        nn.init.normal_(
            self.fc.weight, 0, 0.01, generator=torch.Generator().manual_seed(schedule.seed)
        )
        nn.init.zeros_(self.fc.bias)
        self.fc.to(self.device)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C) logits of normalised (B, 3, s, s); fc is computed in float32: it learns at rates
        like 30."""
        return self.fc(self.features(images))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(B, D) float32; in bf16 on a GPU up to here."""
        # this process may have no part in a small last batch; a trained backbone sees even that,
        # for gradients and statistics are gathered from every process
        if not len(images) and not self.backbone.training:
            return torch.zeros(0, self.fc.in_features, device=self.device)
        with (
            torch.set_grad_enabled(self.finetune and torch.is_grad_enabled()),
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"),
        ):
            return self.backbone(images).float()

    def trained(self) -> nn.Module:
        """What the checkpoint holds: all of it, or fc."""
        return self if self.finetune else self.fc


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
    before = None if schedule.finetune else fingerprint(encoder.model)
    model = Classifier(encoder, len(images.classes), schedule)
    groups = [{"params": list(model.fc.parameters())}]
    if schedule.finetune:
        groups.append({"params": list(model.backbone.parameters())})
    optimizer = torch.optim.SGD(
        groups, 1.0, momentum=schedule.momentum, weight_decay=schedule.weight_decay
    )
    identity = {
        **asdict(schedule),
        "weights": encoder.digest,
        "images": images.digest(),
        "classes": images.classes,
        "labels": hashlib.blake2b(rows.tobytes(), digest_size=8).hexdigest(),
        "size": encoder.size,
    }
    advice = "lower --head-lr and --backbone-lr" if schedule.finetune else "lower --lr"
    training = Training(model.trained(), optimizer, file, identity, "classifier", advice)
    training.restore()
    if not training.finished:
        _train(model, training, schedule, RandomCrops(images, rows, schedule.seed), workers)
        training.save(finished=True)
    if before is not None and fingerprint(encoder.model) != before:
        raise AssertionError("the frozen backbone changed while the classifier was trained")
    return model.eval()


def _train(
    model: Classifier, training: Training, schedule: Schedule, crops: RandomCrops, workers: int
) -> None:
    device, count = model.device, len(crops.rows)
    steps = -(-count // schedule.batch)  # of an epoch
    if schedule.finetune and distributed.world() > 1:
        model.backbone = spread_batch_norm(model.backbone, 1, device)
    spread_model = spread(model.trained(), device)
    model.train(schedule.finetune)

    def loss_of(batch: tuple[torch.Tensor, torch.Tensor], step: int) -> torch.Tensor:
        inputs, labels = to_input(batch[0], device), batch[1].to(device, non_blocking=True)
        logits = spread_model(inputs if schedule.finetune else model.features(inputs))
        whole = min(schedule.batch, count - step % steps * schedule.batch)
        # the mean over processes is then the mean over the global batch, however it is cut
        return F.cross_entropy(logits, labels, reduction="sum") * (distributed.world() / whole)

    def rates(step: int) -> list[float]:
        factor = schedule.factor(step, steps)
        return [rate * factor for rate in (schedule.lr, schedule.backbone_lr)[: len(groups)]]

    groups = training.optimizer.param_groups
    name = f"{'fine-tuning' if schedule.finetune else 'linear'}, seed {schedule.seed}"
    loader = batches(crops, workers, device, order=Order(count, schedule, training.step))
    training.run(loader, loss_of, Plan(steps * schedule.epochs, steps, rates, name))


def evaluate(model: Classifier, images: Labelled, batch: int = 256, workers: int = 0) -> dict:
    """Accuracy in percent: {"top-1", "top-5" (where there are more than five classes), "per_class":
    {name: top-1}}."""
    classes = len(images.classes)
    # images, top-1 and top-5 hits by class
    counts = torch.zeros(3, classes, dtype=torch.double, device=model.device)
    rows = np.arange(distributed.rank(), len(images), distributed.world())
    labels, done = torch.from_numpy(images.labels[rows].astype(np.int64)).to(model.device), 0
    bar = tqdm(
        total=len(rows), desc="testing", unit="img", leave=False, disable=distributed.rank() > 0
    )
    with torch.inference_mode(), bar:
        for crops in batches(Subset(images, rows.tolist()), workers, model.device, batch):
            truth = labels[done : done + len(crops)]
            best = model(to_input(crops, model.device)).topk(min(5, classes), 1).indices
            hits = best == truth[:, None]
            for row, values in enumerate((torch.ones_like(truth), hits[:, 0], hits.any(1))):
                counts[row].index_add_(0, truth, values.double())
            done += len(crops)
            bar.update(len(crops))
    total, first, five = distributed.total(counts).cpu()
    accuracy = {"top-1": float(100 * first.sum() / total.sum())}
    if classes > 5:
        accuracy["top-5"] = float(100 * five.sum() / total.sum())
    of_classes = zip(images.classes, first.tolist(), total.tolist(), strict=True)
    per_class = {name: float(100 * hit / count) for name, hit, count in of_classes if count}
    return {**accuracy, "per_class": per_class}


def fingerprint(model: nn.Module) -> str:
    """Of every weight and buffer, bit by bit."""
    digest = hashlib.blake2b(digest_size=16)
    for key, value in model.state_dict().items():
        digest.update(key.encode())
        content = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(content.numpy().tobytes())
    return digest.hexdigest()
