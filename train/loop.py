"""The one loop, readable top to bottom: images and masks to weights, on one process or, under
torchrun, on many.

State that a run needs to continue exactly: weights, memories, optimiser, and the step. Everything
random comes from (seed, step) or (seed, epoch, index, view), see train/streams.py, so neither
workers nor processes change a view.
"""

import os
import shlex
import signal
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from data.cli import UsageError, note
from data.stopping import Stopping, ending
from train import checkpoint, distributed
from train.batch_norm import average_statistics
from train.collapse import gauges
from train.config import Config, flat
from train.dataset import TrainingSet, open_training_set
from train.distributed import say
from train.feed import Feed
from train.knn import OnlineKnn
from train.loader import make_loader
from train.log import Clock, Log, memory_gb
from train.optimise import learning_rate
from train.presets import configure
from train.preview import preview
from train.replay import replay
from train.run import FiniteLosses, begin, init_weights

# why the loop ends early, beside the numbers of signals; of several processes' the largest counts
STOP_AT, LOADER_FAILED, NOT_FINITE = 999, 1000, 1001
UNBEGUN = "before its first step; the same command begins"


def train(config: Config, stop: Stopping | None = None, stop_at: int | None = None) -> bool:
    """Pretrain; True when the run is finished, False when it was stopped and saved.

    Args:
        stop: notes the signals since the process began; None: from now on.
        stop_at: stop and save after this global step, as a signal would (for tests).

    Raises:
        UsageError: bad settings, images, masks, a run folder of another configuration or under
            way, a loss that is not finite, too little memory, or a loader that fails again and
            again.
        SystemExit: a signal stopped the run, which is saved: 0, or 130 for SIGINT.
    """
    config.check()
    with nullcontext(stop) if stop else Stopping() as stop:
        with ending(f"stopped {UNBEGUN}"):  # another process may never come
            device = distributed.start(config.runtime.device)
        try:
            return _start(config, device, stop, stop_at)
        except (MemoryError, RuntimeError) as error:
            text = str(error)
            of_memory = "out of memory" in text or "allocate memory" in text
            if not (of_memory or isinstance(error, MemoryError)):
                raise
            lines = [line.strip() for line in text.splitlines() if "memory" in line]
            why = lines[0] if lines else text or "MemoryError"
            raise UsageError(
                f"too little memory ({why}): --batch, --size and the method's sizes decide"
            ) from None
        finally:
            distributed.stop()


def _start(config: Config, device: torch.device, stop: Stopping, stop_at: int | None) -> bool:
    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    batch, world, out = config.optimiser.batch, distributed.world(), Path(config.out)
    if batch % world:
        raise UsageError(f"--batch {batch} does not divide among {world} processes")
    if config.runtime.replay is not None and world > 1:
        raise UsageError("--replay: shows a whole batch on one process; run it without a launcher")
    data = open_training_set(config)
    if config.init is not None and not (out / checkpoint.CONFIG).exists():
        init_weights(config)  # another backbone's are refused before there is a folder
    _prepare_folder(out, config, config.identity() | data.identity())
    if (out / checkpoint.BACKBONE).exists():
        knn = ""
        if config.knn.knn:
            command = ["python", "-m", "evaluate", "knn", "--run", config.out]
            knn = f"; for its kNN: {shlex.join([*command, '--data', config.knn.knn])}"
        say(f"nothing to do: {out} is finished ({config.optimiser.epochs} epochs){knn}")
        return True
    if config.runtime.replay is not None:
        print(replay(config, data, device))
        return False
    _end_where(distributed.any_rank(stop.received), UNBEGUN)
    with checkpoint.held(out) if distributed.rank() == 0 else nullcontext():
        return _train(config, data, device, stop, stop_at)


def _train(
    config: Config, data: TrainingSet, device: torch.device, stop: Stopping, stop_at: int | None
) -> bool:
    writer, out, batch_size = distributed.rank() == 0, Path(config.out), config.optimiser.batch
    steps_per_epoch = len(data.images) // batch_size
    last = steps_per_epoch * config.optimiser.epochs
    online_knn = OnlineKnn(config) if config.knn.knn else None
    run = begin(config, len(data.images), device)
    if data.usable:
        say(f"{config.masks}: {data.usable}")
    if run.step:
        say(f"continuing {out} at step {run.step} of {last}")
    method, model, optimizer = run.method, run.model, run.optimizer
    feed = Feed(make_loader(config, data, run.step, device), device)
    log = Log(out, run.step) if writer else None
    losses, values, ended_by = FiniteLosses(device), {}, 0
    half = device.type == "cuda" and config.optimiser.precision != "fp32"
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=half)
    model.train()
    looks = {"unit": "step", "desc": out.name, "smoothing": 0.05, "disable": not writer}
    with tqdm(total=last, initial=run.step, **looks) as bar:
        clock = Clock(batch_size)
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
                preview(batch.pictures, batch.pasted, out / "first_batch.png")
            rate = learning_rate(config.optimiser, run.step, steps_per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with autocast():
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
                    **clock.read(feed.waited),
                    **batch.pasting(),
                    "replaced": distributed.total(torch.tensor(feed.replaced)).item(),
                }
                if epoch_ends:
                    with clock.paused(), autocast():
                        values |= gauges(method.encoder, batch.views[0])
                if writer:
                    log.write(run.step, epoch=epoch, **values, memory_gb=memory_gb(device))
                bar.set_postfix(
                    loss=f"{values['loss']:.3f}",
                    img_s=f"{values['images_per_second']:.0f}",
                    wait=f"{values['waiting']:.0%}",
                    refresh=False,
                )
            if epoch_ends and epoch % config.runtime.checkpoint_every == 0 and run.step < last:
                run.save(losses)
            measures = epoch_ends and (epoch % config.knn.knn_every == 0 or run.step == last)
            if online_knn and measures:
                with clock.paused():
                    top1 = _measure(online_knn, method.encoder, device)
                if writer and top1 is not None:
                    log.write(run.step, epoch=epoch, knn=top1)
                    bar.write(f"epoch {epoch:.0f}: online kNN {top1:.1%}")
    if writer:
        log.close()
    average_statistics(method)
    run.save(losses, failed=ended_by == NOT_FINITE)
    if ended_by == LOADER_FAILED:
        raise UsageError(f"{out}: saved at step {run.step}; {feed.error or 'another process ends'}")
    if ended_by == STOP_AT:
        return False
    _end_where(ended_by, f"at step {run.step} of {last} and saved; the same command continues")
    if writer:
        checkpoint.export(method.encoder, out)
    distributed.barrier()
    # no step was left where a run was killed between its last checkpoint and its weights
    final = f", final loss {values['loss']:.3f}" if values else ""
    say(f"{out}: finished{final}; weights in {out / checkpoint.BACKBONE}")
    return True


def _measure(online_knn: OnlineKnn, encoder: nn.Module, device: torch.device) -> float | None:
    """The accuracy; None, with a note, where an image of it cannot be read: training goes on."""
    try:
        return online_knn(encoder, device)
    except UsageError as error:
        note(f"no online kNN this time: {error}")
        return None


def _end_where(signalled: int, where: str) -> None:
    """End the process if it got a signal: with 0, and after Ctrl-C with 130, which torchrun would
    take for a failure."""
    if signalled:
        say(f"stopped {where}")
        interrupted = signalled == signal.SIGINT and "WORLD_SIZE" not in os.environ
        raise SystemExit(130 if interrupted else 0)


def _prepare_folder(out: Path, config: Config, identity: dict) -> None:
    """Every process checks the folder; the one that writes makes it first."""
    settings = flat(config)
    settings["list"] = settings.pop("listed")
    defaults = configure(method=config.method.method, images="", out="").identity()
    if "maps" in identity:  # runs of earlier versions do not say it
        defaults["maps"] = identity["maps"]
    if distributed.rank() > 0:
        distributed.barrier()
    checkpoint.prepare_run(out, identity, settings, defaults, config.runtime.replay is not None)
    if distributed.rank() == 0:
        distributed.barrier()
