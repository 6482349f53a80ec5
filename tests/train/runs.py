"""Tiny runs that the trainer's tests share."""

import json
import sys
from pathlib import Path

from train.config import Config

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


def config(images: Path, masks: Path | str, out: Path, **changes) -> Config:
    return Config(
        images=str(images / "train"), masks=str(masks), out=str(out), **(SETTINGS | changes)
    )


def command_line(settings: Config, *extra: str) -> list[str]:
    """The `python -m train` command that gives these settings."""
    command = [
        sys.executable,
        "-m",
        "train",
        settings.images,
        "--masks",
        settings.masks,
        "--out",
        settings.out,
    ]
    for name in SETTINGS:
        value = getattr(settings, name)
        command += [
            f"--{name.replace('_', '-')}",
            *map(str, value if isinstance(value, tuple) else (value,)),
        ]
    return [*command, *extra]


def losses(out: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]
