"""The one loop, readable top to bottom: images and masks to weights, on one process or, under
torchrun, on many.

State that a run needs to continue exactly: weights, memories, optimiser, and the step. Everything
random comes from (seed, step) or (seed, epoch, index, view), see train/streams.py, so neither
workers nor processes change a view.
"""

from __future__ import annotations

import signal
from contextlib import nullcontext
from pathlib import Path

import torch
from tqdm import tqdm

from data.cli import UsageError
from data.stopping import Stopping
from train import checkpoint, distributed
from train.batch_norm import average_statistics
from train.collapse import gauges
from train.config import Config, flat
from train.dataset import TrainingSet, open_training_set
from train.feed import Feed
from train.knn import OnlineKnn
from train.loader import batch_bytes, make_loader
from train.log import Clock, Log, NoLog, memory_gb
from train.optimise import learning_rate
from train.presets import configure
from train.preview import preview
from train.replay import replay
from train.run import FiniteLosses, begin
from train.workers import batches_ahead

# why the loop ends early, beside the numbers of signals; of several processes' the largest counts
STOP_AT, LOADER_FAILED, NOT_FINITE = 1, 1000, 1001


def train(config: Config, stop_at: int | None = None) -> bool:
    """Pretrain; True when the run is finished, False when it was stopped and saved.

    Args:
        stop_at: stop and save after this global step, as a signal would (for tests).

    Raises:
        UsageError: bad settings, images, masks, a run folder of another configuration or under
            way, a loss that is not finite, or a loader that fails again and again.
        SystemExit: a signal stopped the run, which is saved: 0, or 130 for SIGINT.
    """
    config.check()
    device = distributed.start(config.runtime.device)
    try:
        _set_up(config, device)
        data = open_training_set(config)
        out = Path(config.out)
        _prepare_folder(out, config, config.identity() | data.identity())
        if (out / checkpoint.BACKBONE).exists():
            _say(f"nothing to do: {out} is finished ({config.optimiser.epochs} epochs)")
            return True
        if config.runtime.replay:
            print(replay(config, data, device))
            return False
        with checkpoint.held(out) if distributed.rank() == 0 else nullcontext():
            return _train(config, data, device, stop_at)
    finally:
        distributed.stop()


def _train(config: Config, data: TrainingSet, device: torch.device, stop_at: int | None) -> bool:
    writer, world = distributed.rank() == 0, distributed.world()
    out, batch_size = Path(config.out), config.optimiser.batch
    steps_per_epoch = len(data.images) // batch_size
    last = steps_per_epoch * config.optimiser.epochs
    ahead = batches_ahead(batch_bytes(config, world), config.runtime.workers)
    online_knn = None
    if config.knn.knn:
        size, workers = config.views.size, config.runtime.workers
        online_knn = OnlineKnn(config.knn, size, workers, batch_size)

    run = begin(config, len(data.images), device, out)
    if data.usable:
        _say(f"{config.masks}: {data.usable}")
    if run.step:
        _say(f"continuing {out} at step {run.step} of {last}")
    method, model, optimizer = run.method, run.model, run.optimizer
    pin_memory, rank = device.type == "cuda", distributed.rank()
    loader = make_loader(config, data, run.step, pin_memory, rank, world, ahead)
    log = Log(out, run.step) if writer else NoLog()
    losses, values, ended_by = FiniteLosses(device), {}, 0
    half = device.type == "cuda" and config.optimiser.precision != "fp32"
    model.train()
    looks = {"unit": "step", "desc": out.name, "smoothing": 0.05, "disable": not writer}
    bar = tqdm(total=last, initial=run.step, **looks)
    # SIGUSR1 is Slurm's warning before a requeue
    with Stopping(signal.SIGUSR1) as stop, bar:
        feed, clock = Feed(loader, device), Clock(batch_size)
        while run.step < last:
            batch = feed.next()
            ended_by = distributed.any_rank(
                max(
                    STOP_AT if run.step == stop_at else stop.received,
                    LOADER_FAILED if feed.error else 0,
                    NOT_FINITE if losses.failed() else 0,
                )
            )
            if ended_by:
                break
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
            logs = epoch_ends or run.step % config.runtime.log_every == 0
            if epoch_ends:
                average_statistics(method)
            losses.add(run.step, loss)
            if logs and distributed.any_rank(losses.failed(wait=True)):
                ended_by = NOT_FINITE
                break
            if logs:
                values = {
                    "loss": distributed.mean(loss).item(),
                    "accuracy": distributed.mean(accuracy).item(),
                    "lr": rate,
                    **clock.read(feed.read_waited()),
                    **batch.pasting(),
                    "replaced": distributed.total(torch.tensor(feed.replaced)).item(),
                }
                if epoch_ends:
                    with clock.paused(), torch.autocast(device.type, torch.bfloat16, enabled=half):
                        values |= gauges(method.encoder, batch.views[0])
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
                run.save(losses)
    log.close()
    average_statistics(method)
    run.save(losses, failed=ended_by == NOT_FINITE)
    if ended_by == LOADER_FAILED:
        raise UsageError(f"{out}: saved at step {run.step}; {feed.error or 'another process ends'}")
    if run.step < last:
        if ended_by == STOP_AT:
            return False
        _say(f"stopped at step {run.step} of {last} and saved; the same command continues")
        raise SystemExit(130 if ended_by == signal.SIGINT else 0)
    if writer:
        checkpoint.export(method.encoder, out)
    distributed.barrier()
    # no step was left where a run was killed between its last checkpoint and its weights
    final = f", final loss {values['loss']:.3f}" if values else ""
    _say(f"{out}: finished{final}; weights in {out / checkpoint.BACKBONE}")
    return True


def _set_up(config: Config, device: torch.device) -> None:
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    batch, world = config.optimiser.batch, distributed.world()
    if batch % world:
        raise UsageError(f"--batch {batch} does not divide among {world} processes")


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
