"""The one loop, readable top to bottom: images and masks to weights, on one process or, under
torchrun, on many.

State that a run needs to continue exactly: weights, memories, optimiser, and the step. Everything
random comes from (seed, step) or (seed, epoch, index, view), see train/streams.py, so neither
workers nor processes change a view.
"""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from data.cli import UsageError
from data.stopping import Stopping
from train import checkpoint, distributed
from train.batch_norm import average_statistics, spread_batch_norm
from train.config import Config, flat
from train.dataset import open_training_set
from train.feed import Feed
from train.knn import OnlineKnn
from train.loader import make_loader
from train.log import Clock, Log, NoLog, memory_gb
from train.network import compile_networks
from train.optimise import learning_rate, make_optimizer
from train.presets import configure
from train.preview import preview


def train(config: Config, stop_at: int | None = None) -> bool:
    """Pretrain; True when the run is finished, False when it was stopped and saved.

    Args:
        stop_at: stop and save after this global step, as a signal would (for tests).

    Raises:
        UsageError: bad settings, images, masks, or a run folder of another configuration.
        SystemExit: a signal stopped the run, which is saved: 0, or 130 for SIGINT.
    """
    config.check()
    device = distributed.start(config.runtime.device)
    try:
        return _train(config, device, stop_at)
    finally:
        distributed.stop()


def _train(config: Config, device: torch.device, stop_at: int | None) -> bool:
    _set_up(config, device)
    writer = distributed.rank() == 0

    # what is trained on
    data = open_training_set(config)
    steps_per_epoch = len(data.images) // config.optimiser.batch
    last = steps_per_epoch * config.optimiser.epochs
    online_knn = None
    if config.knn.knn:
        size, workers = config.views.size, config.runtime.workers
        online_knn = OnlineKnn(config.knn, size, workers, config.optimiser.batch)

    # the run's folder
    out = Path(config.out)
    _prepare_folder(out, config, config.identity() | data.identity())
    if (out / checkpoint.BACKBONE).exists():
        _say(f"nothing to do: {out} is finished ({config.optimiser.epochs} epochs)")
        return True

    # what is trained
    run = _begin(config, len(data.images), device, out)
    if run.step:
        _say(f"continuing {out} at step {run.step} of {last}")
    method, model, optimizer = run.method, run.model, run.optimizer
    loader = make_loader(
        config,
        data,
        run.step,
        device.type == "cuda",
        distributed.rank(),
        distributed.world(),
    )
    log = Log(out, run.step) if writer else NoLog()
    half = device.type == "cuda" and config.optimiser.precision != "fp32"
    model.train()
    values: dict[str, float] = {}
    bar = tqdm(
        total=last,
        initial=run.step,
        unit="step",
        desc=out.name,
        smoothing=0.05,
        disable=not writer,
    )
    # SIGUSR1 is Slurm's warning before a requeue; the loader's workers start within, so that none
    # dies of a signal
    with Stopping(signal.SIGUSR1) as stop, bar:
        feed, clock = Feed(loader, device), Clock(config.optimiser.batch)
        while run.step < last and not distributed.any_rank(stop.received or run.step == stop_at):
            batch = feed.next()
            if run.step == 0 and writer:
                preview(*batch.preview(), out / "first_batch.png")
            rate = learning_rate(config.optimiser, run.step, steps_per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss, accuracy = model(
                    batch.views, run.step, batch.index, batch.negative, batch.counts
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            feed.ahead()
            run.step += 1
            clock.steps += 1
            bar.update()

            epoch = run.step / steps_per_epoch
            epoch_ends = run.step % steps_per_epoch == 0
            if epoch_ends:
                average_statistics(method)
            if run.step % config.runtime.log_every == 0 or run.step == last:
                values = {
                    "loss": distributed.mean(loss).item(),
                    "accuracy": distributed.mean(accuracy).item(),
                }
                if not math.isfinite(values["loss"]):
                    raise UsageError(
                        f"{out}: the loss is {values['loss']} at step {run.step}; lower --lr"
                    )
                values |= {"lr": rate, **clock.read(feed.read_waited()), **batch.pasting()}
                values["replaced"] = distributed.total(torch.tensor(feed.replaced)).item()
                log.write(run.step, epoch=epoch, **values, memory_gb=memory_gb(device))
                bar.set_postfix(
                    loss=f"{values['loss']:.3f}",
                    img_s=f"{values['images_per_second']:.0f}",
                    wait=f"{values['waiting']:.0%}",
                    refresh=False,
                )
            if (
                online_knn
                and epoch_ends
                and (epoch % config.knn.knn_every == 0 or run.step == last)
            ):
                with clock.paused():
                    top1 = online_knn(method.encoder, device)
                log.write(run.step, epoch=epoch, knn=top1)
                bar.write(f"epoch {epoch:.0f}: online kNN {top1:.1%}")
            if epoch_ends and epoch % config.runtime.checkpoint_every == 0 and run.step < last:
                run.save()
    log.close()
    average_statistics(method)
    run.save()
    if run.step < last:
        received = distributed.any_rank(stop.received)
        if received:
            _say(f"stopped at step {run.step} of {last} and saved; the same command continues")
            raise SystemExit(130 if received == signal.SIGINT else 0)
        return False
    if writer:
        checkpoint.export_backbone(method.encoder, out / checkpoint.BACKBONE)
    distributed.barrier()
    # no step was left where a run was killed between its last checkpoint and its weights
    final = f", final loss {values['loss']:.3f}" if values else ""
    _say(f"{out}: finished{final}; weights in {out / checkpoint.BACKBONE}")
    return True


@dataclass
class Run:
    """What a run has learned, and how far it is.

    Attributes:
        method: the networks and memories.
        model: what is called at each step: the method, or it in DistributedDataParallel.
        step: steps done.
    """

    config: Config
    out: Path
    method: nn.Module
    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0

    def save(self) -> None:
        """Write a checkpoint, on the process that writes."""
        if distributed.rank() == 0:
            state = {"model": self.method.state_dict(), "optimizer": self.optimizer.state_dict()}
            keep = self.config.runtime.keep
            checkpoint.save_step(self.out, state | {"step": self.step}, keep)


def _begin(config: Config, images: int, device: torch.device, out: Path) -> Run:
    """The run at its first step, or as its newest checkpoint has it."""
    torch.manual_seed(config.seed)
    method = config.method.make(config, images).to(device, memory_format=torch.channels_last)
    spread_batch_norm(method, config.network.splits, device)
    run = Run(config, out, method, method, make_optimizer(config.optimiser, method))
    state = checkpoint.newest(out)
    if state is not None:
        method.load_state_dict(state["model"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.step = state["step"]
    if config.runtime.compile:
        compile_networks(method)
    if distributed.world() > 1:
        devices = [device] if device.type == "cuda" else None
        # memories are gathered and so are equal everywhere; broadcasting a 33 MB queue every step
        # would be waste
        run.model = DistributedDataParallel(method, devices, broadcast_buffers=False)
    return run


def _set_up(config: Config, device: torch.device) -> None:
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    if config.optimiser.batch % distributed.world():
        raise UsageError(
            f"--batch {config.optimiser.batch} does not divide among {distributed.world()} "
            "processes"
        )


def _prepare_folder(out: Path, config: Config, identity: dict) -> None:
    """Every process checks the folder; the one that writes makes it first."""
    settings = flat(config)
    settings["list"] = settings.pop("listed")
    defaults = configure(method=config.method.method, images="", out="").identity()
    if distributed.rank() > 0:
        distributed.barrier()
    checkpoint.prepare_run(out, identity, settings, defaults)
    if distributed.rank() == 0:
        distributed.barrier()


def _say(text: str) -> None:
    if distributed.rank() == 0:
        print(text)
