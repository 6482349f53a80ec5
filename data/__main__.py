"""Look into a mask cache, check it, pack images, or make the embedded data set.

python -m data info CACHE          what is in it: counts, failed images, quality percentiles
python -m data verify CACHE        check every shard against its checksum
python -m data verify PACK         the same for a pack of images
python -m data pack IMAGES OUT     a million small files into a few large ones, resized
python -m data list IMAGES         how many images a folder or tar holds, and their paths
python -m data synthetic OUT       the embedded data set, with true masks
python -m data challenge IMAGES CACHE OUT    a set like the Backgrounds Challenge's, from images and
their masks
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tqdm import tqdm

from data.cache.journal import runs
from data.cache.reader import Cache, load_description, verify
from data.cache.shard import QUALITY, REPAIR, STATUS_NAMES
from data.cli import UsageError, run
from data.io import write_bytes
from data.sources.images import open_images
from data.sources.packed import REPAIR as PACK_REPAIR
from data.sources.packed import describe, is_pack, verify_pack


@dataclass(frozen=True)
class Info:
    """What is in a cache: identity, counts by status, failed paths, what it took, percentiles of
    the quality."""

    cache: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CACHE")]
    """Folder of the cache."""
    failed: int = 20
    """Failed paths shown at most."""

    def __call__(self) -> int:
        cache = Cache(self.cache)
        identity = cache.identity
        parameters = ", ".join(f"{k}={v}" for k, v in identity["parameters"].items())
        print(
            f"{self.cache}: {len(cache)} masks of {cache.side}x{cache.side} in {cache.description['shards']} shards"
        )
        print(
            f"estimator {identity['estimator']} (version {identity['version']}{', ' if parameters else ''}"
            f"{parameters}), identity {cache.description['identity_hash']}"
        )
        if identity.get("weights"):
            print(f"weights   SHA-256 {identity['weights']}, computed on {identity['device']}")
        print(
            "status    "
            + ", ".join(f"{n} {name}" for name, n in cache.description["statuses"].items())
        )
        failed = cache.failed()
        for path, status in failed[: self.failed]:
            print(f"  {STATUS_NAMES[status]:<10} {path.encode(errors='backslashreplace').decode()}")
        if len(failed) > self.failed:
            print(f"  ... and {len(failed) - self.failed} more (--failed N shows more)")
        size = sum(file.stat().st_size for file in cache.folder.iterdir() if file.is_file())
        print(f"bytes     {size / 1e6:.1f} MB in {self.cache}")
        taken = runs(cache.folder)
        if taken["computed"]:
            many = "s" * (taken["runs"] != 1)
            print(
                f"made in   {taken['seconds']:.1f} s by {taken['runs']} run{many}: {taken['computed']} images "
                f"computed, {taken['copied']} rows copied, {taken['per_core']:.1f} images/s a core"
            )
        usable = cache.status == 0
        if usable.any():
            print("quality of usable masks, percentiles:   5      25      50      75      95")
            for name in QUALITY:
                values = np.percentile(cache.column(f"quality/{name}")[usable], [5, 25, 50, 75, 95])
                print(f"  {name:<10}" + " " * 22 + "  ".join(f"{v:6.3f}" for v in values))
        return 0


@dataclass(frozen=True)
class Verify:
    """Check every shard of a mask cache or of a pack against CHECKSUMS; exit code 1 where any is
    damaged."""

    cache: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CACHE")]
    """Folder of the cache or pack."""

    def __call__(self) -> int:
        packed = is_pack(self.cache)
        shards = (
            len(describe(self.cache)["file_bytes"])
            if packed
            else load_description(Path(self.cache))["shards"]
        )
        damaged = 0
        checks = verify_pack(self.cache) if packed else verify(self.cache)
        for name, problem in tqdm(checks, total=shards, desc="verify", unit="shard", leave=False):
            if problem:
                damaged += 1
                print(f"{os.path.join(self.cache, name)}: {problem}", file=sys.stderr)
        print(f"{shards - damaged} of {shards} shards are sound")
        if damaged:
            print(PACK_REPAIR if packed else REPAIR, file=sys.stderr)
        return 1 if damaged else 0


@dataclass(frozen=True)
class List:
    """List the images of a folder or tar, and make a tar's index before many processes need it."""

    images: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """Folder, tar, or tar of tars."""
    out: str | None = None
    """Text file to write the paths to, one a line: what --list takes."""

    def __call__(self) -> int:
        images = open_images(self.images)
        if self.out:
            if (np.char.find(images.paths, b"\n") >= 0).any():
                raise UsageError(f"{self.images}: a path holds a line break; a list cannot name it")
            write_bytes(Path(self.out), b"\n".join(images.paths.tolist()) + b"\n")
        print(
            f"{self.images}: {len(images)} images, the first {os.fsdecode(images.paths[0])}, "
            f"the last {os.fsdecode(images.paths[-1])}"
        )
        return 0


@dataclass(frozen=True)
class Pack:
    """Pack images: their files, made smaller where they are larger than needed, one after the other
    in a few large files that are memory-mapped. Run it again and it continues, or says that there
    is nothing to do."""

    images: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """Folder, tar, or tar of tars."""
    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder of the pack; every stage takes it where it takes a folder of images."""
    side: int = 256
    """Short side that larger images are reduced to, in pixels; smaller ones stay byte for byte. 0
    reduces none."""
    quality: int = 90
    """JPEG quality of the reduced ones, 1..100."""
    list: str | None = None
    """Text file of relative paths, one a line: pack these images only."""
    shard_size: int = 2048
    """Images a file."""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Processes (default: the CPUs this process may use); the files do not depend on it."""
    repair: bool = False
    """Check every file against its SHA-256 first, and make the damaged ones anew."""

    def __call__(self) -> int:
        from data.sources.pack import pack

        made, empty = pack(
            self.images,
            self.out,
            self.side,
            self.quality,
            self.shard_size,
            self.workers,
            self.list,
            self.repair,
        )
        size = sum(describe(self.out)["file_bytes"])
        count = describe(self.out)["images"]
        print(
            f"{made} of {count} images packed, {size / 1e6:.1f} MB in {self.out}"
            if made
            else f"nothing to do: {self.out} is a pack of these {count} images ({size / 1e6:.1f} MB)"
        )
        if empty:
            print(
                f"{empty} of them could not be read, or are broken and large; the others stand in for them"
            )
        return 0


@dataclass(frozen=True)
class Synthetic:
    """Make the embedded data set: scenes of ten object classes on ten kinds of background, with
    true masks."""

    out: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder to make."""
    seed: int = 0
    """Seed; the same seed gives the same files."""
    train: int = 6000
    """Training images."""
    probe: int = 1000
    """Unbiased images to train probes on."""
    test: int = 1000
    """Test objects; each is in every test split."""
    size: int = 64
    """Side of the images, in pixels."""
    bias: float = 0.9
    """Probability that a training image shows its class's own kind of background, 0..1."""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Processes (default: the CPUs this process may use); the files do not depend on it."""

    def __call__(self) -> int:
        from data.synthetic.dataset import make

        try:
            made = make(
                self.out,
                seed=self.seed,
                train=self.train,
                probe=self.probe,
                test=self.test,
                size=self.size,
                bias=self.bias,
                workers=self.workers,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
        print(f"{self.out}: " + ", ".join(f"{n} {split}" for split, n in made["counts"].items()))
        return 0


@dataclass(frozen=True)
class Challenge:
    """Make a set like the Backgrounds Challenge's (ImageNet-9) from labelled images and their
    masks: eight variants of every image, as OUT/VARIANT/val/CLASS/NAME.JPEG, for `python -m
        evaluate in9 --data OUT --train DIR`."""

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

    def __call__(self) -> int:
        from data.synthetic.challenge import make

        made = make(
            self.images,
            self.cache,
            self.out,
            limit=self.limit,
            seed=self.seed,
            workers=self.workers,
        )
        print(
            f"{self.out}: {sum(made['counts'].values())} images of {len(made['classes'])} classes in "
            f"{len(made['variants'])} variants; {made['left_out']} left out for their masks"
        )
        return 0


def main() -> int:
    commands = {
        "info": Info,
        "verify": Verify,
        "list": List,
        "pack": Pack,
        "synthetic": Synthetic,
        "challenge": Challenge,
    }
    return tyro.extras.subcommand_cli_from_dict(
        commands, prog="python -m data", description=__doc__
    )()


if __name__ == "__main__":
    run(main)
