"""The batch at which a run's loss was not finite, as a picture, and its loss by the kept
weights."""

import json
from pathlib import Path

import torch

from data.cli import UsageError
from train import checkpoint
from train.config import Config
from train.dataset import TrainingSet
from train.feed import Feed
from train.loader import make_loader
from train.preview import preview
from train.run import begin


def replay(config: Config, data: TrainingSet, device: torch.device) -> str:
    """Show and recompute the step that --replay's file (the run's diverged.json) names; says what
    came of it. The run stays as it is.

    Raises:
        UsageError: no such file, or another one.
    """
    file = Path(config.runtime.replay)
    try:
        step = int(json.loads(file.read_text())["step"])
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"--replay {file}: not a run's {checkpoint.DIVERGED}") from None
    run = begin(config, len(data.images), device)
    batch = Feed(make_loader(config, data, step - 1, device), device).next()
    picture = file.with_name("replay.png")
    preview(batch.pictures, batch.pasted, picture, len(batch.index))
    run.method.train()
    with torch.no_grad():
        loss, _ = run.method(batch.views, step - 1, batch.index, batch.negative, batch.counts)
    return (
        f"step {step}: {len(batch.index)} images, {picture}; loss {loss.item():.5g} with the "
        f"weights of step {run.step}, in float32"
    )
