"""Tiny runs that the trainer's tests share."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from data.cache.reader import Cache
from data.sources.images import Images, open_images
from tests.conftest import execute, wait_for
from train.config import Config, flag, flat
from train.dataset import TrainingSet
from train.loader import Pairs
from train.masks import Masks
from train.parameters import COVERAGE, PARAMETERS, PASTED
from train.presets import configure

SETTINGS = {"network": "resnet10", "stem": "small", "width": 4, "size": 32, "crop": (0.3, 1.0)}
SETTINGS |= {"batch": 16, "queue": 40, "splits": 2, "momentum": 0.99, "epochs": 4, "log_every": 1}
SETTINGS |= {"lr": 0.06, "weight_decay": 5e-4, "grey_p": 0.5, "soften_sigma": 1.0}
SETTINGS |= {"workers": 0, "threads": 1}
COLOURS = [column for column in range(PARAMETERS) if column not in (PASTED, COVERAGE)]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def config(images: Path, masks: Path | str, out: Path, **changes) -> Config:
    folders = {"images": str(images / "train"), "masks": str(masks), "out": str(out)}
    return configure(**(folders | SETTINGS | changes))


def command_line(settings: Config, *extra: str) -> list[str]:
    folders = [settings.images, "--masks", settings.masks, "--out", settings.out]
    command = [sys.executable, "-m", "train", *folders, "--method", settings.method.method]
    values = flat(settings)
    for name in SETTINGS.keys() & values.keys():
        value = values[name]
        command += [flag(name), *map(str, value if isinstance(value, tuple) else (value,))]
    return [*command, *extra]


def together(settings: Config, *extra: str, processes: int = 2) -> subprocess.CompletedProcess:
    return execute([*TORCHRUN, processes, *command_line(settings, *extra)[1:]])


def log(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in log(out) if "loss" in line]


def wait_for_steps(out: Path, steps: int) -> None:
    wait_for(lambda: (out / "log.jsonl").exists() and len(losses(out)) >= steps)


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
