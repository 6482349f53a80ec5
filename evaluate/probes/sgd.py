"""Train a classifier on a backbone by SGD on random crops: a linear one on frozen features, or the
whole network.

Crops and order depend on (seed, epoch, index) only, so the number of workers or processes and any
interruption leave the result as it is; the state is saved every epoch and on Ctrl-C, and the same
command continues.
"""

from __future__ import annotations

import copy
import hashlib
import json
import signal
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Subset
from tqdm import tqdm

from data.cli import UsageError
from data.stopping import Stopping
from evaluate.features import Encoder, Labelled, batches, to_input
from evaluate.probes.schedule import Order, RandomCrops, Schedule
from train import checkpoint, distributed
from train.batch_norm import spread_batch_norm

ASK = 20  # steps between two questions whether any process was told to stop


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
    identity: dict,
    rows: np.ndarray | None = None,
    workers: int = 0,
    stop_at: int | None = None,
) -> Classifier:
    """Train, or continue what `file` holds; a finished file is only loaded.

    Args:
        images: training images; `rows` of them, or all.
        file: the checkpoint; when finished, the classifier (fc.weight (C, D), fc.bias (C,)).
        identity: what makes it the same training (JSON-able); the schedule and the weights are
            added to it.
        stop_at: stop and save after this step, as a signal would (for tests); the result is
            unfinished then.

    Raises:
        UsageError: bad options, an image that cannot be decoded, a file of another training, or a
            loss that diverges.
        SystemExit: stopped by a signal, and saved.
    """
    schedule.check()
    rows = np.arange(len(images)) if rows is None else rows
    identity = {
        **identity,
        **asdict(schedule),
        "weights": encoder.digest,
        "images": images.digest(),
        "classes": images.classes,
        "labels": hashlib.blake2b(rows.tobytes(), digest_size=8).hexdigest(),
        "size": encoder.size,
    }
    identity = json.loads(json.dumps(identity))  # as it will be read
    before = None if schedule.finetune else fingerprint(encoder.model)
    model = Classifier(encoder, len(images.classes), schedule)
    groups = [{"params": list(model.fc.parameters()), "base": schedule.lr}]
    if schedule.finetune:
        groups.append({"params": list(model.backbone.parameters()), "base": schedule.backbone_lr})
    optimizer = torch.optim.SGD(
        groups, 1.0, momentum=schedule.momentum, weight_decay=schedule.weight_decay
    )
    step = _restore(file, identity, model, optimizer) if file.exists() else 0
    distributed.barrier()  # nobody writes the file before all have read it
    order = Order(len(rows), schedule, step)
    last = step + len(order)
    if step < last:
        step = _train(
            model,
            optimizer,
            schedule,
            RandomCrops(images, rows, schedule.seed),
            order,
            step,
            workers,
            file,
            identity,
            stop_at,
        )
    if before is not None and fingerprint(encoder.model) != before:
        raise AssertionError("the frozen backbone changed while the classifier was trained")
    return model.eval()


def _train(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    crops: RandomCrops,
    order: Order,
    step: int,
    workers: int,
    file: Path,
    identity: dict,
    stop_at: int | None,
) -> int:
    last, device, together = step + len(order), model.device, model
    if distributed.world() > 1:
        if schedule.finetune:
            model.backbone = spread_batch_norm(model.backbone, 1, device)
        ids = [device.index or torch.cuda.current_device()] if device.type == "cuda" else None
        together = DistributedDataParallel(model.trained(), ids)
    model.train(schedule.finetune)
    stopped, loss = False, torch.zeros((), device=device)
    name = f"{'fine-tuning' if schedule.finetune else 'linear'}, seed {schedule.seed}"
    with (
        Stopping() as stop,
        tqdm(
            total=last,
            initial=step,
            unit="step",
            desc=name,
            disable=distributed.rank() > 0,
            leave=False,
        ) as bar,
    ):
        for images, labels in batches(crops, workers, device, order=order):
            factor = schedule.factor(step, order.steps)
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * factor
            images, labels = to_input(images, device), labels.to(device, non_blocking=True)
            logits = (
                together(images)
                if schedule.finetune or distributed.world() == 1
                else together(model.features(images))
            )
            place = step % order.steps
            whole = min(schedule.batch, order.count - place * schedule.batch)
            # DistributedDataParallel averages over processes: this is the mean over the global
            # batch, however cut
            loss = F.cross_entropy(logits, labels, reduction="sum") * (distributed.world() / whole)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
            bar.update()
            if step % ASK == 0:
                bar.set_postfix(
                    loss=f"{loss.item():.3f}", lr=f"{schedule.lr * factor:g}", refresh=False
                )
            if step % ASK == 0 or distributed.world() == 1:
                stopped = distributed.any_rank(bool(stop.received))
            if stopped or step == stop_at or place + 1 == order.steps:
                _check_finite(model, file, schedule)
                _save(file, identity, model, None if step == last else optimizer, step)
            if stopped or step == stop_at:
                break
    if stopped and step < last:
        if distributed.rank() == 0:
            print(
                f"stopped at step {step} of {last} and saved to {file}; the same command continues"
            )
        raise SystemExit(128 + (stop.received or signal.SIGTERM))
    return step


def evaluate(model: Classifier, images: Labelled, batch: int = 256, workers: int = 0) -> dict:
    """Accuracy in percent: {"top-1", "top-5" (where there are more than five classes), "per_class":
    {name: top-1}}."""
    classes = len(images.classes)
    counts = torch.zeros(
        3, classes, dtype=torch.double, device=model.device
    )  # images, top-1 and top-5 hits by class
    rows = np.arange(distributed.rank(), len(images), distributed.world())
    labels = torch.from_numpy(images.labels[rows].astype(np.int64)).to(model.device)
    done = 0
    with (
        torch.inference_mode(),
        tqdm(
            total=len(rows), desc="testing", unit="img", leave=False, disable=distributed.rank() > 0
        ) as bar,
    ):
        for crops in batches(Subset(images, rows.tolist()), workers, model.device, batch):
            truth = labels[done : done + len(crops)]
            hits = (
                model(to_input(crops, model.device)).topk(min(5, classes), 1).indices
                == truth[:, None]
            )
            for row, values in enumerate((torch.ones_like(truth), hits[:, 0], hits.any(1))):
                counts[row].index_add_(0, truth, values.double())
            done += len(crops)
            bar.update(len(crops))
    counts = distributed.total(counts).cpu()
    found = {"top-1": float(100 * counts[1].sum() / counts[0].sum())}
    if classes > 5:
        found["top-5"] = float(100 * counts[2].sum() / counts[0].sum())
    per_class = {
        name: float(100 * hit / count)
        for name, count, hit in zip(
            images.classes, counts[0].tolist(), counts[1].tolist(), strict=True
        )
        if count
    }
    return {**found, "per_class": per_class}


def fingerprint(model: nn.Module) -> str:
    """Of every weight and buffer, bit by bit."""
    hashed = hashlib.blake2b(digest_size=16)
    for key, value in model.state_dict().items():
        hashed.update(key.encode())
        hashed.update(
            value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
    return hashed.hexdigest()


def _save(
    file: Path,
    identity: dict,
    model: Classifier,
    optimizer: torch.optim.Optimizer | None,
    step: int,
) -> None:
    if distributed.rank() == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "identity": json.dumps(identity),
            "step": step,
            "model": model.trained().state_dict(),
        }
        checkpoint.save(file, state | ({"optimizer": optimizer.state_dict()} if optimizer else {}))


def _restore(
    file: Path, identity: dict, model: Classifier, optimizer: torch.optim.Optimizer
) -> int:
    state = checkpoint.load(file)
    try:
        found = json.loads(state["identity"])
        different = checkpoint.differences(found, identity)
        if different:
            raise UsageError(
                f"{file}: holds a classifier trained otherwise ({different}); delete it, or choose "
                "another --json"
            )
        model.trained().load_state_dict(state["model"])
        if "optimizer" in state:
            optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(
            f"{file}: not a classifier's checkpoint; delete it to begin anew"
        ) from error


def _check_finite(model: Classifier, file: Path, schedule: Schedule) -> None:
    if not torch.isfinite(model.fc.weight).all():
        if distributed.rank() == 0:
            file.unlink(missing_ok=True)  # going on with it would only fail again
        raise UsageError(f"{file.stem}: the classifier diverged at --lr {schedule.lr:g}; lower it")
