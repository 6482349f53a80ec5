"""The one loop, readable top to bottom: images and masks to weights.

State that a run needs to continue exactly: weights, queue, optimiser, and the step. Everything random comes from
(seed, step) or (seed, epoch, index, view), see train/streams.py.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from data.cache import Cache
from data.cli import UsageError
from data.images import open_images
from train import checkpoint
from train.config import Config, identity
from train.loader import make_loader, shuffled_rows
from train.log import Log
from train.methods import make_method
from train.optimise import learning_rate, make_optimizer
from train.photometric import photometric
from train.views import PASTED


def train(config: Config, stop_at: int | None = None) -> bool:
    """Pretrain; True when the run is finished, False when it was stopped and saved.

    Args:
        stop_at: stop and save after this global step, as a signal would (for tests).

    Raises:
        UsageError: bad settings, images, masks, or a run folder of another configuration.
    """
    config.check()
    device = choose_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    images = open_images(config.images, config.list)
    paths = images.paths
    steps_per_epoch = len(paths) // config.batch
    if steps_per_epoch == 0:
        raise UsageError(f"{config.images}: {len(paths)} images are fewer than one --batch of {config.batch}")
    cache, rows = None, None
    if config.masks != "none":
        cache = Cache(config.masks)
        rows = cache.require(paths)
        if config.control == "shuffled":
            rows = shuffled_rows(rows, config.seed)
    out = Path(config.out)
    masks = cache.description["identity_hash"] if cache else "none"
    checkpoint.prepare_run(out, identity(config, paths, masks), dataclasses.asdict(config))
    if (out / checkpoint.BACKBONE).exists():
        print(f"nothing to do: {out} is finished ({config.epochs} epochs)")
        return True

    torch.manual_seed(config.seed)
    method = make_method(config, len(paths)).to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(config, method)
    step, last = 0, steps_per_epoch * config.epochs
    if (out / checkpoint.CHECKPOINT).exists():
        state = checkpoint.load(out / checkpoint.CHECKPOINT)
        method.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        print(f"continuing {out} at step {step} of {last}")

    loader = make_loader(config, images, cache, rows, step, pin_memory=device.type == "cuda")
    log = Log(out, step)
    signals = Signals()
    batches = iter(loader)
    method.train()
    clock = Clock(config.batch)
    with tqdm(total=last, initial=step, unit="step", desc=out.name, smoothing=0.05) as bar:
        while step < last and not signals.received and step != stop_at:
            with clock.waiting():
                batch = next(batches)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step, steps_per_epoch)
            views = [photometric(*view, device) for view in zip(batch["views"], batch["parameters"], strict=True)]
            index = batch["index"].to(device, non_blocking=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss, accuracy = method(views, step, index)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            step += 1
            bar.update()
            if step % config.log_every == 0 or step == last:
                values = {"loss": loss.item(), "accuracy": accuracy.item()}
                if not math.isfinite(values["loss"]):
                    raise UsageError(f"{out}: the loss is {values['loss']} at step {step}; lower --lr")
                speed = clock.read()
                log.write(step, epoch=step / steps_per_epoch, **values, lr=optimizer.param_groups[0]["lr"], **speed,
                          pasted=batch["parameters"][..., PASTED].mean().item())
                bar.set_postfix(loss=f"{values['loss']:.3f}", img_s=f"{speed['images_per_second']:.0f}",
                                wait=f"{speed['waiting']:.0%}", refresh=False)
            if step % (steps_per_epoch * config.checkpoint_every) == 0 and step < last:
                _save(out, method, optimizer, step)
    log.close()
    signals.restore()
    if step < last:
        _save(out, method, optimizer, step)
        if signals.received:
            print(f"stopped at step {step} of {last} and saved; the same command continues")
            raise SystemExit(130 if signals.received == signal.SIGINT else 0)
        return False
    _save(out, method, optimizer, step)
    checkpoint.export_backbone(method.encoder, out / checkpoint.BACKBONE)
    print(f"{out}: finished, final loss {values['loss']:.3f}; weights in {out / checkpoint.BACKBONE}")
    return True


def choose_device(name: str) -> torch.device:
    """"auto" is CUDA where there is one. UsageError where the named device is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name}: must be cuda, cpu or auto") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: no CUDA device on this machine; use --device cpu")
    return device


def _save(out: Path, method: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    checkpoint.save(out / checkpoint.CHECKPOINT,
                    {"model": method.state_dict(), "optimizer": optimizer.state_dict(), "step": step})


class Signals:
    """Notes SIGINT and SIGTERM instead of dying, so that the loop can save after its step; a second one kills."""

    def __init__(self):
        self.received = 0
        self.before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}

    def _note(self, number: int, _) -> None:
        self.received = number
        self.restore()

    def restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)


class Clock:
    """Images a second and the share of time spent waiting for data, since the last reading."""

    def __init__(self, batch: int):
        self.batch, self.steps, self.wait, self.start = batch, 0, 0.0, time.perf_counter()

    def waiting(self) -> Clock:
        return self

    def __enter__(self) -> None:
        self.entered = time.perf_counter()

    def __exit__(self, *_) -> None:
        self.wait += time.perf_counter() - self.entered
        self.steps += 1

    def read(self) -> dict[str, float]:
        now = time.perf_counter()
        seconds = now - self.start
        values = {"images_per_second": self.batch * self.steps / seconds, "waiting": self.wait / seconds}
        self.steps, self.wait, self.start = 0, 0.0, now
        return values
