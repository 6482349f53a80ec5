"""The commands about images: `python -m data list` and `pack`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from data.cli import UsageError
from data.io import write_bytes
from data.sources.images import open_images
from data.sources.pack import Settings
from data.sources.pack import pack as make_pack
from data.sources.packed import describe
from data.stopping import ending


@dataclass(frozen=True)
class List:
    """List the images of a folder or tar, and make a tar's index before many processes need it."""

    images: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """Folder, tar, or tar of tars."""
    out: str | None = None
    """Text file to write the paths to, one a line: what --list takes."""


def list_images(arguments: List) -> int:
    images = open_images(arguments.images)
    if arguments.out:
        if (np.char.find(images.paths, b"\n") >= 0).any():
            raise UsageError(
                f"{arguments.images}: a path holds a line break; a list cannot name it"
            )
        write_bytes(Path(arguments.out), b"\n".join(images.paths.tolist()) + b"\n")
    print(
        f"{arguments.images}: {len(images)} images, the first {os.fsdecode(images.paths[0])}, "
        f"the last {os.fsdecode(images.paths[-1])}"
    )
    return 0


@dataclass(frozen=True, kw_only=True)
class Pack(Settings):
    """Pack images: their files, made smaller where they are larger than needed, one after the other
    in a few large files that are memory-mapped. Run it again and it continues, or says that there
    is nothing to do."""

    images: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """Folder, tar, tar of tars, or folder of class tars."""
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder of the pack; every stage takes it where it takes a folder of images."""
    listed: Annotated[str | None, tyro.conf.arg(name="list")] = None
    """Text file of relative paths, one a line: pack these images only."""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Processes (default: the CPUs this process may use); the files do not depend on it."""
    repair: bool = False
    """Check every file against its SHA-256 first, and rebuild the damaged ones."""


def pack(arguments: Pack) -> int:
    with ending("stopped; the same command continues"):
        outcome = make_pack(
            arguments.images,
            arguments.out,
            Settings(arguments.side, arguments.quality, arguments.shard_size),
            workers=arguments.workers,
            listed=arguments.listed,
            repair=arguments.repair,
        )
    description = describe(arguments.out)
    size = f"{sum(description['file_bytes']) / 1e6:.1f} MB"
    count = description["images"]
    if outcome.packed:
        print(f"{outcome.packed} of {count} images packed, {size} in {arguments.out}")
    else:
        print(f"nothing to do: {arguments.out} is a pack of these {count} images ({size})")
    if outcome.unusable:
        print(
            f"{outcome.unusable} of them could not be read, or are broken and large; the others "
            "stand in for them"
        )
    return 0
