"""The commands of `python -m data`, each a function of its arguments."""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from tqdm import tqdm

from data.cache.description import load_description
from data.cache.reader import Cache, failures
from data.cache.shard import QUALITY, REPAIR, STATUS_NAMES
from data.cache.verify import BUSY, LOCK, old_shards
from data.checksums import problems, read_checksums, write_checksums
from data.cli import UsageError
from data.io import is_own, lock, remove_temporary, write_bytes
from data.parallel import cpus
from data.sources import packed
from data.sources.images import open_images
from data.sources.pack import Settings
from data.sources.pack import pack as make_pack
from data.stopping import ending
from data.synthetic.challenge import Options
from data.synthetic.challenge import make as make_challenge
from data.synthetic.dataset import Scenes
from data.synthetic.dataset import make as make_dataset

ImagesPath = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
CachePath = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CACHE")]
OutPath = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
CPUS = cpus()
STOPPED = "stopped; the same command continues"


def info(cache: CachePath, failed: int = 20) -> None:
    """What is in a cache: identity, counts by status, failed paths, what it took, percentiles of
    the quality.

    Args:
        cache: Folder of the cache.
        failed: Failed paths shown at most.
    """
    masks = Cache(cache)
    identity, folder = masks.identity, masks.folder
    parameters = "".join(f", {key}={value}" for key, value in identity["parameters"].items())
    counts = ", ".join(f"{n} {name}" for name, n in masks.description["statuses"].items())
    print(f"{folder}: {len(masks)} masks of {masks.side}x{masks.side} in {len(masks.files)} shards")
    print(
        f"estimator {identity['estimator']} (version {identity['version']}{parameters}), identity "
        f"{masks.description['identity_hash']}"
    )
    if identity.get("weights"):
        print(f"weights   SHA-256 {identity['weights']}, computed on {identity['device']}")
    print(f"status    {counts}")
    unusable = failures(masks.paths, masks.status)
    for path, status in unusable[:failed]:
        print(f"  {STATUS_NAMES[status]:<10} {path}")
    if len(unusable) > failed:
        print(f"  ... and {len(unusable) - failed} more (--failed N shows more)")
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    old = sum(file.stat().st_size for file in old_shards(folder))
    removable = f", {old / 1e6:.1f} of them in old shards (python -m data clean)" if old else ""
    print(f"bytes     {size / 1e6:.1f} MB in {folder}{removable}")
    taken = _runs(folder)
    if taken["computed"]:
        many = "s" * (taken["runs"] != 1)
        print(
            f"made in   {taken['seconds']:.1f} s by {taken['runs']} run{many}: {taken['computed']} "
            f"images computed, {taken['copied']} rows copied, "
            f"{taken['per_core']:.1f} images/s a core"
        )
    usable = masks.status == 0
    if usable.any():
        print("quality of usable masks, percentiles:   5      25      50      75      95")
        for name in QUALITY:
            values = np.percentile(masks.column(f"quality/{name}")[usable], [5, 25, 50, 75, 95])
            print(f"  {name:<10}" + " " * 22 + "  ".join(f"{v:6.3f}" for v in values))


def _runs(folder: Path) -> dict[str, float]:
    """What all finished runs of the batch stage took together, by their log: one JSON object a
    line, an "end" for each.

    Returns:
        runs, computed (images), copied (rows), seconds, and per_core: images a second and worker.
    """
    total = {"runs": 0, "computed": 0, "copied": 0, "seconds": 0.0}
    core_seconds = 0.0
    for file in filter(is_own, sorted(folder.glob("log*.jsonl"))):
        for line in file.read_text(errors="replace").splitlines():
            # a kill may have cut a line; other events have none of the numbers
            with contextlib.suppress(ValueError, KeyError, TypeError):
                event = json.loads(line)
                if event["computed"] + event["copied"]:
                    core_seconds += event["seconds"] * event["workers"]
                    total = {name: n + event.get(name, 1) for name, n in total.items()}
    return total | {"per_core": total["computed"] / max(core_seconds, 1e-9)}


def verify(cache: CachePath) -> int:
    """Check every shard of a mask cache or of a pack against CHECKSUMS; exit code 1 where any is
    damaged.

    Args:
        cache: Folder of the cache or pack.
    """
    folder = Path(cache)
    is_pack = packed.is_pack(folder)
    names = packed.shard_names(folder) if is_pack else load_description(folder)["shards"]
    damaged = 0
    bar = tqdm(names, desc="verify", unit="shard", leave=False)
    for name, wrong in problems(folder, bar):
        if wrong:
            damaged += 1
            print(f"{folder / name}: {wrong}", file=sys.stderr)
    print(f"{len(names) - damaged} of {len(names)} shards are sound")
    if damaged:
        print(packed.REPAIR if is_pack else REPAIR, file=sys.stderr)
    return 1 if damaged else 0


def clean(cache: CachePath) -> None:
    """Remove the shards that a cache does not need since it was brought up to date: run it when no
    training reads them any more, and no part of the cache is still to be computed.

    Args:
        cache: Folder of the cache.
    """
    folder = Path(cache)
    load_description(folder)  # before a lock's file is put into a folder of something else
    with lock(folder / LOCK, f"{folder}: {BUSY}"):
        files = old_shards(folder)
        size = sum(file.stat().st_size for file in files)
        for file in files:
            file.unlink()
        checksums = read_checksums(folder)
        kept = {name: line for name, line in checksums.items() if (folder / name).exists()}
        if kept != checksums:
            write_checksums(folder, kept)
        remove_temporary(folder)
    print(f"{len(files)} old shards removed, {size / 1e6:.1f} MB")


def list_images(images: ImagesPath, out: str | None = None) -> None:
    """List the images of a folder or tar, and make a tar's index before many processes need it.

    Args:
        images: Folder, tar, or tar of tars.
        out: Text file to write the paths to, one a line: what --list takes.
    """
    paths = open_images(images).paths
    if out:
        if (np.char.find(paths, b"\n") >= 0).any():
            raise UsageError(f"{images}: a path holds a line break; a list cannot name it")
        write_bytes(out, b"\n".join(paths.tolist()) + b"\n")
    first, last = os.fsdecode(paths[0]), os.fsdecode(paths[-1])
    print(f"{images}: {len(paths)} images, the first {first}, the last {last}")


def pack(
    images: ImagesPath,
    out: OutPath,
    settings: tyro.conf.OmitArgPrefixes[Settings] = Settings(),  # noqa: B008 - it is frozen
    listed: Annotated[str | None, tyro.conf.arg(name="list")] = None,
    workers: int = CPUS,
    repair: bool = False,
) -> None:
    """Pack images: their files, made smaller where they are larger than needed, one after the other
    in a few large files. Run it again and it continues, or says that there is nothing to do.

    Args:
        images: Folder, tar, tar of tars, or folder of class tars.
        out: Folder of the pack; every stage takes it where it takes a folder of images.
        listed: Text file of relative paths, one a line: pack these images only.
        workers: Processes (default: the CPUs this process may use); the files do not depend on it.
        repair: Check every file against its SHA-256 first, and rebuild the damaged ones.
    """
    with ending(STOPPED):
        outcome = make_pack(images, out, settings, workers=workers, listed=listed, repair=repair)
    description = packed.describe(out)
    size = f"{sum(description['file_bytes']) / 1e6:.1f} MB"
    count = description["images"]
    if outcome.packed:
        print(f"{outcome.packed} of {count} images packed, {size} in {out}")
    else:
        print(f"nothing to do: {out} is a pack of these {count} images ({size})")
    if outcome.unusable:
        print(
            f"{outcome.unusable} of them could not be read, or are broken and large; the others "
            "stand in for them"
        )


def synthetic(
    out: OutPath,
    scenes: tyro.conf.OmitArgPrefixes[Scenes] = Scenes(),  # noqa: B008 - it is frozen
    workers: int = CPUS,
) -> None:
    """Make the embedded data set: scenes of ten object classes on ten kinds of background, with
    true masks.

    Args:
        out: Folder to make.
        workers: Processes (default: the CPUs this process may use); the files do not depend on it.
    """
    with ending(STOPPED):
        record = make_dataset(out, scenes, workers=workers)
    print(f"{out}: {', '.join(f'{n} {split}' for split, n in record['counts'].items())}")


def challenge(
    images: ImagesPath,
    cache: CachePath,
    out: OutPath,
    options: tyro.conf.OmitArgPrefixes[Options] = Options(),  # noqa: B008 - it is frozen
    workers: int = CPUS,
) -> None:
    """Make a set like the Backgrounds Challenge's (ImageNet-9) from labelled images and their
    masks: variants of every image, as OUT/VARIANT/val/CLASS/NAME.JPEG, for
    `python -m evaluate in9 --data OUT --train DIR`, or of training images below train/.

    Args:
        images: Folder or tar of labelled images, CLASS/image.
        cache: Cache of their masks, made by `python -m preprocess IMAGES CACHE`.
        out: Folder to make; the same command continues an interrupted one.
        workers: Processes (default: the CPUs this process may use); the files do not depend on it.
    """
    with ending(STOPPED):
        record = make_challenge(images, cache, out, options, workers)
    print(
        f"{out}: {sum(record['counts'].values())} images of {len(record['classes'])} classes in "
        f"{len(record['variants'])} variants; {record['left_out']} left out for their masks"
    )
