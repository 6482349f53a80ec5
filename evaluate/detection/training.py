"""Fine-tune a detector on annotated images.

Scales, flips, order and every draw inside the model come from (seed, step), so the number of
workers and any
interruption leave the result as it is: bit for bit on a CPU; on a GPU torchvision's gradients of
regions are added up in any order. The state is saved every so often and when told to stop, and the
same command continues.
"""

from __future__ import annotations

import json
import signal
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from data.cli import UsageError
from data.stopping import Stopping
from evaluate.detection.annotations import Annotated
from evaluate.detection.models import pixels
from evaluate.detection.schedules import Schedule
from evaluate.detection.views import Order, View, Views
from evaluate.features import batches
from train import checkpoint, distributed
from train.batch_norm import spread_batch_norm

ASK = 20  # steps between two looks at the loss and at whether any process was told to stop


def fit(
    model: nn.Module,
    images: Annotated,
    schedule: Schedule,
    file: Path,
    identity: dict,
    device: torch.device,
    workers: int = 0,
    sync_bn: bool = True,
    half: bool = False,
    save_every: int = 1000,
    stop_at: int | None = None,
) -> nn.Module:
    """Train, or continue what `file` holds; a finished file is only loaded.

    Args:
        model: of models.build; with masks where it has a mask head.
        file: the checkpoint; when finished, the detector alone.
        identity: what makes it the same training (JSON-able); schedule and images are added to it.
        sync_bn: BatchNorm over all processes.  half: bf16 on a GPU.  save_every: steps between two
            checkpoints.
        stop_at: stop and save after this step, as a signal would (for tests); the result is
            unfinished then.

    Raises:
        UsageError: bad options, an image that cannot be used, a file of another training, or a loss
            that diverges.
        SystemExit: stopped by a signal, and saved.
    """
    schedule.check()
    if schedule.batch < distributed.world():
        raise UsageError(
            f"--batch {schedule.batch}: fewer images than the {distributed.world()} processes"
        )
    if not len(images.learnable()):
        raise UsageError(f"{images.name}: no image has an object to learn from")
    identity = json.loads(
        json.dumps(
            {
                **identity,
                **asdict(schedule),
                "images": images.digest(),
                "sync_bn": sync_bn,
                "classes": images.classes,
                "half": half,
            }
        )
    )
    model = (spread_batch_norm(model, 1, device) if sync_bn else model).to(device).train()
    optimizer = torch.optim.SGD(
        _groups(model, schedule.weight_decay), schedule.lr, momentum=schedule.momentum
    )
    state = _read(file, identity) if file.exists() else None
    if state:
        try:
            model.load_state_dict(state["model"])
            if "optimizer" in state:
                optimizer.load_state_dict(state["optimizer"])
        except (ValueError, RuntimeError) as error:
            raise UsageError(
                f"{file}: its weights do not fit this detector; delete it to begin anew"
            ) from error
    distributed.barrier()  # nobody writes the file before all have read it
    if state and "optimizer" not in state:
        return model.eval()
    trainer = _Trainer(model, optimizer, schedule, images, file, identity, device, workers, half)
    step = trainer.train(state["step"] if state else 0, save_every, stop_at)
    if step == schedule.iterations:
        trainer.precise_bn()
        trainer.save(step, finished=True)
    return model.eval()


class _Trainer:
    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        images: Annotated,
        file: Path,
        identity: dict,
        device: torch.device,
        workers: int,
        half: bool,
    ):
        self.model, self.optimizer, self.schedule, self.images = model, optimizer, schedule, images
        self.file, self.identity, self.device, self.workers, self.half = (
            file,
            identity,
            device,
            workers,
            half,
        )
        ids = [device.index or torch.cuda.current_device()] if device.type == "cuda" else None
        self.together = DistributedDataParallel(model, ids) if distributed.world() > 1 else model

    def views(self, start: int, steps: int):
        return batches(
            Views(self.images, self.schedule, True, self.model.roi_heads.has_mask()),
            self.workers,
            self.device,
            order=Order(self.images, self.schedule, steps, start),
        )

    def losses(self, views: list[View], step: int) -> dict:
        # torchvision draws boxes to learn from with the global generator: set anew, a step repeats
        # exactly
        torch.manual_seed((self.schedule.seed << 40) + (step << 12) + distributed.rank())
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.half and self.device.type == "cuda"
        ):
            return self.together(
                [pixels(v.image, self.device) for v in views],
                [v.target(self.device) for v in views],
            )

    def train(self, step: int, save_every: int, stop_at: int | None) -> int:
        schedule, last, stopped = self.schedule, self.schedule.iterations, False
        with (
            Stopping() as stop,
            tqdm(
                total=last,
                initial=step,
                unit="step",
                desc=f"detector, seed {schedule.seed}",
                disable=distributed.rank() > 0,
                leave=False,
            ) as bar,
        ):
            for views in self.views(step, last):
                for group in self.optimizer.param_groups:
                    group["lr"] = schedule.lr * schedule.factor(step)
                loss = sum(self.losses(views, step).values())
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self.optimizer.step()
                step += 1
                bar.update()
                ends = step in (last, stop_at)
                if step % ASK == 0 or ends:
                    value = distributed.total(loss.detach().clone()).item() / distributed.world()
                    if not value < float("inf"):  # not a number is not less either
                        raise UsageError(
                            f"{self.file.stem}: the loss is {value} at step {step}; lower --lr"
                        )
                    bar.set_postfix(loss=f"{value:.3f}", refresh=False)
                if step % ASK == 0 or distributed.world() == 1:
                    stopped = distributed.any_rank(bool(stop.received))
                if stopped or ends or step % save_every == 0:
                    self.save(step)
                if stopped or step == stop_at:
                    break
        if stopped and step < last:
            if distributed.rank() == 0:
                print(
                    f"stopped at step {step} of {last} and saved to {self.file}; the same command continues"
                )
            raise SystemExit(128 + (stop.received or signal.SIGTERM))
        return step

    def precise_bn(self) -> None:
        """BatchNorm's statistics as plain means over batches of the finished weights (Wu and
        Johnson 2021)."""
        norms = [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        before = [norm.momentum for norm in norms]
        first = self.schedule.iterations
        self.model.train()
        with (
            torch.no_grad(),
            tqdm(
                total=self.schedule.precise_bn,
                desc="norms",
                unit="batch",
                leave=False,
                disable=distributed.rank() > 0,
            ) as bar,
        ):
            for done, views in enumerate(self.views(first, first + self.schedule.precise_bn)):
                for norm in norms:
                    norm.momentum = 1 / (done + 1)  # a running mean
                self.losses(views, first + done)
                bar.update()
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum

    def save(self, step: int, finished: bool = False) -> None:
        if distributed.rank() == 0:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            state = {
                "identity": json.dumps(self.identity),
                "step": step,
                "model": self.model.state_dict(),
            }
            checkpoint.save(
                self.file, state | ({} if finished else {"optimizer": self.optimizer.state_dict()})
            )


def _groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Norms without weight decay; everything is trained."""
    norms = {
        id(p)
        for m in model.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm)
        for p in m.parameters()
    }
    return [
        {
            "params": [p for p in model.parameters() if id(p) not in norms],
            "weight_decay": weight_decay,
        },
        {"params": [p for p in model.parameters() if id(p) in norms], "weight_decay": 0.0},
    ]


def _read(file: Path, identity: dict) -> dict:
    state = checkpoint.load(file)
    try:
        found = json.loads(state["identity"])
        different = checkpoint.differences(found, identity)
        if different:
            raise UsageError(
                f"{file}: holds a detector trained otherwise ({different}); delete it, or choose another "
                "--json"
            )
        return {"step": int(state["step"]), "model": dict(state["model"])} | (
            {"optimizer": state["optimizer"]} if "optimizer" in state else {}
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{file}: not a detector's checkpoint; delete it to begin anew") from error
