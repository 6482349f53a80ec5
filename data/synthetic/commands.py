"""The commands that make data sets: `python -m data synthetic` and `challenge`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from data.stopping import ending
from data.synthetic.challenge import make as make_challenge
from data.synthetic.dataset import Scenes
from data.synthetic.dataset import make as make_dataset


@dataclass(frozen=True, kw_only=True)
class Synthetic(Scenes):
    """Make the embedded data set: scenes of ten object classes on ten kinds of background, with
    true masks."""

    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder to make."""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Processes (default: the CPUs this process may use); the files do not depend on it."""


def synthetic(arguments: Synthetic) -> int:
    with ending("stopped; the same command continues"):
        record = make_dataset(arguments.out, arguments, workers=arguments.workers)
    counts = ", ".join(f"{n} {split}" for split, n in record["counts"].items())
    print(f"{arguments.out}: {counts}")
    return 0


@dataclass(frozen=True)
class Challenge:
    """Make a set like the Backgrounds Challenge's (ImageNet-9) from labelled images and their
    masks: eight variants of every image, as OUT/VARIANT/val/CLASS/NAME.JPEG, for
    `python -m evaluate in9 --data OUT --train DIR`."""

    images: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """Folder or tar of validation images, CLASS/image."""
    cache: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CACHE")]
    """Cache of their masks, made by `python -m preprocess IMAGES CACHE`."""
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder to make; the same command continues an interrupted one."""
    limit: int | None = None
    """Images a class at most, evenly spaced (default: all)."""
    seed: int = 0
    """Seed of the draws of backgrounds."""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Processes (default: the CPUs this process may use); the files do not depend on it."""


def challenge(arguments: Challenge) -> int:
    with ending("stopped; the same command continues"):
        record = make_challenge(
            arguments.images,
            arguments.cache,
            arguments.out,
            limit=arguments.limit,
            seed=arguments.seed,
            workers=arguments.workers,
        )
    print(
        f"{arguments.out}: {sum(record['counts'].values())} images of {len(record['classes'])} "
        f"classes in {len(record['variants'])} variants; {record['left_out']} left out for their "
        "masks"
    )
    return 0
