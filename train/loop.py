"""The one loop, readable top to bottom: images and masks to weights, on one process or, under
torchrun, on many.

State that a run needs to continue exactly: weights, memories, optimiser, and the step. Everything
random comes from (seed, step) or (seed, epoch, index, view), see train/streams.py, so neither
workers nor processes change a view.
"""

from __future__ import annotations

import dataclasses
import math
import signal
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from data.cache.reader import Cache
from data.cli import UsageError
from data.sources.images import open_images
from data.stopping import Stopping
from train import checkpoint, distributed
from train.backgrounds import make_donors
from train.batch_norm import average_statistics, spread_batch_norm
from train.config import Config, defaults, identity
from train.feed import Feed
from train.knn import OnlineKnn
from train.loader import make_loader
from train.log import Clock, Log, NoLog, memory_gb
from train.masks import make_masks
from train.methods import make_method
from train.network import compile_networks
from train.optimise import learning_rate, make_optimizer
from train.preview import preview
from train.views import COVERAGE, PASTED


def train(config: Config, stop_at: int | None = None) -> bool:
    """Pretrain; True when the run is finished, False when it was stopped and saved.

    Args:
        stop_at: stop and save after this global step, as a signal would (for tests).

    Raises:
        UsageError: bad settings, images, masks, or a run folder of another configuration.
    """
    config.check()
    device = distributed.start(config.device)
    try:
        return _train(config, device, stop_at)
    finally:
        distributed.stop()


def _train(config: Config, device: torch.device, stop_at: int | None) -> bool:
    if config.threads:
        torch.set_num_threads(config.threads)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    writer = distributed.rank() == 0
    if config.batch % distributed.world():
        raise UsageError(
            f"--batch {config.batch} does not divide among {distributed.world()} processes"
        )

    # what is trained on
    images = open_images(config.images, config.list)
    if config.exclude:
        images = images.without(config.exclude)
    paths = images.paths
    steps_per_epoch = len(paths) // config.batch
    if steps_per_epoch == 0:
        raise UsageError(
            f"{config.images}: {len(paths)} images are fewer than one --batch of {config.batch}"
        )
    cache, rows = None, None
    if config.masks != "none":
        cache = Cache(config.masks)
        rows = cache.require(paths)
    masks, donors = make_masks(config, cache, rows), make_donors(config, images, cache, rows)
    watch = (
        OnlineKnn(
            config.knn,
            config.size,
            config.knn_k,
            config.knn_temperature,
            config.knn_limit,
            config.workers,
            config.batch,
        )
        if config.knn
        else None
    )

    # the run's folder
    out = Path(config.out)
    if not writer:
        distributed.barrier()  # the writer makes it first
    textures = donors.images.paths if config.background == "texture" else None
    checkpoint.prepare_run(
        out,
        identity(
            config,
            paths,
            cache.description["identity_hash"] if cache else "none",
            textures,
            images.altered,
        ),
        dataclasses.asdict(config),
        defaults(),
    )
    if writer:
        distributed.barrier()
    if (out / checkpoint.BACKBONE).exists():
        _say(f"nothing to do: {out} is finished ({config.epochs} epochs)")
        return True

    # what is trained
    torch.manual_seed(config.seed)
    method = make_method(config, len(paths)).to(device, memory_format=torch.channels_last)
    spread_batch_norm(method, config.splits, device)
    optimizer = make_optimizer(config, method)
    step, last = 0, steps_per_epoch * config.epochs
    state = checkpoint.newest(out)
    if state is not None:
        method.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        _say(f"continuing {out} at step {step} of {last}")
    if config.compile:
        compile_networks(method)
    model = method
    if distributed.world() > 1:
        # memories are gathered and so are equal everywhere; broadcasting a 33 MB queue every step
        # would be waste
        model = DistributedDataParallel(
            method, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False
        )

    loader = make_loader(
        config,
        images,
        masks,
        step,
        pin_memory=device.type == "cuda",
        views=method.VIEWS,
        rank=distributed.rank(),
        world=distributed.world(),
        donors=donors,
    )
    log = Log(out, step) if writer else NoLog()
    half = device.type == "cuda" and config.precision != "fp32"
    model.train()
    values: dict[str, float] = {}
    # SIGUSR1 is Slurm's warning before a requeue; the loader's workers start within, so that none
    # dies of a signal
    with (
        Stopping(signal.SIGUSR1) as stop,
        tqdm(
            total=last, initial=step, unit="step", desc=out.name, smoothing=0.05, disable=not writer
        ) as bar,
    ):
        feed, clock = Feed(loader, device), Clock(config.batch)
        while step < last and not distributed.any_rank(stop.received or step == stop_at):
            batch = feed.next()
            if step == 0 and writer:
                preview(*batch.shown(), out / "first_batch.png")
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step, steps_per_epoch)
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss, accuracy = model(batch.views, step, batch.index, batch.negative, batch.counts)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            feed.ahead()
            step += 1
            clock.steps += 1
            bar.update()
            epoch_ends = step % steps_per_epoch == 0
            if epoch_ends:
                average_statistics(method)
            if step % config.log_every == 0 or step == last:
                values = {
                    "loss": distributed.mean(loss).item(),
                    "accuracy": distributed.mean(accuracy).item(),
                }
                if not math.isfinite(values["loss"]):
                    raise UsageError(
                        f"{out}: the loss is {values['loss']} at step {step}; lower --lr"
                    )
                speed = clock.read(feed.waited)
                feed.waited = 0.0
                pasted = batch.parameters[..., PASTED].mean().item()
                log.write(
                    step,
                    epoch=step / steps_per_epoch,
                    **values,
                    lr=optimizer.param_groups[0]["lr"],
                    **speed,
                    pasted=pasted,
                    memory_gb=memory_gb(device),
                    coverage=batch.parameters[..., COVERAGE].mean().item() / pasted
                    if pasted
                    else 0.0,
                )
                bar.set_postfix(
                    loss=f"{values['loss']:.3f}",
                    img_s=f"{speed['images_per_second']:.0f}",
                    wait=f"{speed['waiting']:.0%}",
                    refresh=False,
                )
            if (
                watch
                and epoch_ends
                and (step // steps_per_epoch % config.knn_every == 0 or step == last)
            ):
                with clock.paused():
                    accuracy = watch(method.encoder, device)
                log.write(step, epoch=step / steps_per_epoch, knn=accuracy)
                bar.write(f"epoch {step // steps_per_epoch}: online kNN {accuracy:.1%}")
            if (
                epoch_ends
                and step // steps_per_epoch % config.checkpoint_every == 0
                and step < last
                and writer
            ):
                _save(out, method, optimizer, step, config.keep)
    log.close()
    average_statistics(method)
    if writer:
        _save(out, method, optimizer, step, config.keep)
    if step < last:
        received = distributed.any_rank(stop.received)
        if received:
            _say(f"stopped at step {step} of {last} and saved; the same command continues")
            raise SystemExit(130 if received == signal.SIGINT else 0)
        return False
    if writer:
        checkpoint.export_backbone(method.encoder, out / checkpoint.BACKBONE)
    distributed.barrier()
    # no step was left where a run was killed between its last checkpoint and its weights
    final = f", final loss {values['loss']:.3f}" if values else ""
    _say(f"{out}: finished{final}; weights in {out / checkpoint.BACKBONE}")
    return True


def _say(text: str) -> None:
    if distributed.rank() == 0:
        print(text)


def _save(
    out: Path, method: nn.Module, optimizer: torch.optim.Optimizer, step: int, keep: int
) -> None:
    checkpoint.save_step(
        out, {"model": method.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, keep
    )
