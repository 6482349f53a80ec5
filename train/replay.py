"""The batch at which a run's loss was not finite, as a picture, and its loss by the kept
weights."""

from pathlib import Path

import torch

from data.cli import UsageError
from data.io import read_json
from train import checkpoint
from train.config import Config
from train.dataset import TrainingSet
from train.feed import Feed
from train.loader import batch_of, make_loader, make_order
from train.preview import preview
from train.run import begin


def replay(config: Config, data: TrainingSet, device: torch.device) -> str:
    """Show and recompute the step that --replay's file (the run's diverged.json) names; says what
    came of it. The run stays as it is.

    Raises:
        UsageError: another file, or images that cannot be loaded.
        OSError: no such file.
    """
    file = Path(config.runtime.replay)
    step = _step(file, config, len(data.images))
    run = begin(config, len(data.images), device)
    feed = Feed(make_loader(config, data, step - 1, device), device)
    batch = feed.next()
    if batch is None:
        raise UsageError(f"--replay {file}: {feed.error}")
    picture = file.with_name("replay.png")
    preview(batch.pictures, batch.pasted, picture, len(batch.index))
    run.method.train()
    with torch.no_grad():
        loss, _ = run.method(batch.views, step - 1, batch.index, batch.negative, batch.counts)
    return (
        f"step {step}: {len(batch.index)} images, {picture}; loss {loss.item():.5g} with the "
        f"weights of step {run.step}, in float32"
    )


def _step(file: Path, config: Config, images: int) -> int:
    """The step that a run's diverged.json names. UsageError where it is not of this run."""
    try:
        content = read_json(file)
        step, batch = content["step"], (content["seed"], content["indices"])
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"--replay {file}: not a run's {checkpoint.DIVERGED}") from None
    last = len(make_order(config, images, 0))
    if type(step) is not int or not 1 <= step <= last:
        raise UsageError(f"--replay {file}: step {step} is none of this run's 1 to {last}")
    if batch != (config.seed, batch_of(config, images, step)):
        raise UsageError(
            f"--replay {file}: its seed or images are not those of this run's step {step}; give "
            f"the {checkpoint.DIVERGED} that the run wrote"
        )
    return step
