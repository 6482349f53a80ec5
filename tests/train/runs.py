"""Tiny runs that the trainer's tests share."""

import json
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

from data.cache.reader import Cache
from data.sources.images import Images, open_images
from train.config import Config, flag, flat
from train.dataset import TrainingSet
from train.loader import Pairs
from train.masks import Masks
from train.presets import configure

SETTINGS = {
    "network": "resnet10",
    "stem": "small",
    "width": 4,
    "size": 32,
    "crop": (0.3, 1.0),
    "batch": 16,
    "queue": 40,
    "splits": 2,
    "lr": 0.06,
    "weight_decay": 5e-4,
    "momentum": 0.99,
    "grey_p": 0.5,
    "soften_sigma": 1.0,
    "epochs": 4,
    "workers": 0,
    "threads": 1,
    "log_every": 1,
}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def config(images: Path, masks: Path | str, out: Path, **changes) -> Config:
    """A run of a few seconds on the test images, with changes by their flat names."""
    folders = {"images": str(images / "train"), "masks": str(masks), "out": str(out)}
    return configure(**(folders | SETTINGS | changes))


def command_line(settings: Config, *extra: str) -> list[str]:
    """The `python -m train` command that gives these settings."""
    folders = [settings.images, "--masks", settings.masks, "--out", settings.out]
    command = [sys.executable, "-m", "train", *folders, "--method", settings.method.method]
    values = flat(settings)
    for name in SETTINGS.keys() & values.keys():
        value = values[name]
        command += [flag(name), *map(str, value if isinstance(value, tuple) else (value,))]
    return [*command, *extra]


def together(settings: Config, *extra: str, processes: int = 2) -> subprocess.CompletedProcess:
    """Run `python -m train` as several processes."""
    command = [*TORCHRUN, str(processes), *command_line(settings, *extra)[1:]]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def log(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in log(out) if "loss" in line]


def wait_for_steps(out: Path, steps: int) -> None:
    """Until a run on another process has logged so many steps."""
    deadline = time.monotonic() + 120
    while not (out / "log.jsonl").exists() or len(losses(out)) < steps:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def pairs(images: Path | Images, cache: Cache | None, **changes) -> Pairs:
    """Views as the demo's preset has them, of `images` (a folder, or what open_images gave)."""
    found = images if isinstance(images, Images) else open_images(images / "train")
    masks = Masks(cache, cache.require(found.paths)) if cache else None
    settings = configure("moco_v2_demo", images="", out="", **changes)
    return Pairs(settings, TrainingSet(found, masks))


class Flat(nn.Module):
    """A backbone without BatchNorm: pixels to features, and an `fc`."""

    def __init__(self):
        super().__init__()
        self.first, self.fc = nn.Linear(12, 6), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.first(x.flatten(1)).tanh())
