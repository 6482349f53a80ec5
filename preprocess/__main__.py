"""Stage 1: one saliency mask an image, once, into HDF5 shards.

    python -m preprocess /data/imagenet/train caches/imagenet-rbd --estimator rbd --workers 16
    python -m preprocess ILSVRC2012_img_train.tar CACHE                   # a tar, or a tar of tars,
    is not unpacked
    python -m preprocess IMAGES CACHE --estimator files --maps MASKS     # masks that exist already
    python -m preprocess IMAGES CACHE --estimator u2net --weights u2net.pth --device cuda --batch 32
    --workers 16
    python -m preprocess IMAGES CACHE --part 3/64                        # a job array: all parts,
    in any order
    python -m preprocess IMAGES CACHE --dask tcp://host:8786             # a dask.distributed
    cluster

The same command continues an interrupted run, and brings a finished cache up to date where images
changed; run again, it finds nothing to do. --repair checks every shard and makes damaged ones anew.
"""

from __future__ import annotations

import data.one_thread  # noqa: F401 - before numpy is imported

# isort: split

import os
import re
import shutil
import signal
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data.cli import UsageError, run
from data.io import sha256
from data.sources.images import MAX_PIXELS
from preprocess import estimators
from preprocess.build import build
from preprocess.commit import FAILURES
from preprocess.networks.weights import find, unpublished
from preprocess.progress import Outcome
from preprocess.recipe import Recipe, load

BATCH = {"cpu": 4, "cuda": 32}  # images a batch by default
LARGEST_BATCH = 1024


@dataclass(frozen=True)
class Arguments:
    """Compute a foreground saliency mask for every image of a folder or tar into a cache of HDF5
    shards."""

    images: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES")]
    """Folder of images (JPEG, PNG, WebP, BMP), any depth; or a tar of them, or of tars of them
    (ImageNet's own)."""
    cache: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CACHE")]
    """Folder of the cache to make, continue or bring up to date."""
    list: str | None = None
    """Text file of relative paths, one a line: these images only."""
    estimator: str = "auto"
    """Saliency method: auto, files (maps on disk, see --maps), or one of the names that an unknown
    one lists."""
    refine: Literal["none", "guided", "grabcut"] = "none"
    """Refine the estimator's map: guided filter on the image, or GrabCut with the map as a soft
    prior."""
    weights: str | None = None
    """Of a network: its file, or a folder with it (default: $DILO_WEIGHTS, then torch hub's cache
    folder)."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Of a network: cpu (each worker computes) or cuda (workers decode ahead, the driver computes
    on one GPU)."""
    batch: int | None = None
    """Of a network: images it takes at once (default: 32 on cuda, 4 on cpu); halved where memory
    does not suffice."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of a network: fp32, or bf16 for GPUs that are fast at it (other masks, so another cache)."""
    maps: str | None = None
    """With --estimator files: folder of grey PNG maps, one an image, at the image's relative path
    (.png)."""
    side: int = 128
    """Side of the stored masks, in pixels; the whole image is squashed to side x side."""
    shard_size: int = 4096
    """Images a shard."""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Processes that decode and estimate (default: the CPUs this process may use); 0 uses none but
    the driver."""
    max_pixels: int = MAX_PIXELS
    """Images with more pixels are refused by their header, before memory is taken."""
    part: str | None = None
    """I/N: only every N-th shard, from the I-th on (1 <= I <= N); the last part to end finishes the
    cache."""
    dask: str | None = None
    """Address of a dask.distributed scheduler (tcp://host:8786): its workers compute instead of
    --workers."""
    repair: bool = False
    """Check every shard of the cache against its checksum and make the damaged ones anew."""
    digest: bool = False
    """Compare the contents of all images with those that the masks were made of, not only lengths
    and mtimes."""


def main() -> None:
    args = tyro.cli(Arguments, prog="python -m preprocess", description=__doc__)
    if args.side < 8 or args.shard_size < 1 or args.workers < 0 or args.max_pixels < 1:
        raise UsageError(
            "--side must be at least 8, --shard-size and --max-pixels at least 1, --workers at least 0"
        )
    part = _part(args.part)
    refine = () if args.refine == "none" else (("refine", args.refine),)
    recipe = _with_weights(
        args, Recipe(_resolve(args), refine, args.side, args.maps, args.max_pixels)
    )
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, frame: _stop(n, signals))
    where = f"the workers of {args.dask}" if args.dask else f"{args.workers} workers"
    refined = "" if args.refine == "none" else f" refined by {args.refine}"
    network = ""
    if recipe.network:
        network = f" ({recipe.weights}, SHA-256 {recipe.sha256[:16]}..., {recipe.precision} on {recipe.device}, "
        network += f"batches of {recipe.batch})"
    print(
        f"estimator {recipe.estimator}{network}{refined}, masks {args.side}x{args.side}, {where} -> {args.cache}",
        flush=True,
    )
    try:
        outcome = build(
            args.images,
            args.cache,
            recipe,
            args.shard_size,
            args.workers,
            listed=args.list,
            part=part,
            cluster=args.dask,
            repair=args.repair,
            digest=args.digest,
        )
    except KeyboardInterrupt:
        print(
            f"stopped: the shard in progress is dropped, finished ones are kept in {args.cache}; "
            "the same command continues",
            file=sys.stderr,
        )
        raise SystemExit(128 + (signals or [signal.SIGINT])[0]) from None
    except OSError as error:
        raise UsageError(_disk_error(error, args.cache)) from error
    _summary(args, outcome)


def _stop(number: int, signals: list[int]) -> None:
    signals.append(number)
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)  # a second Ctrl-C would only break the cleaning up
    raise KeyboardInterrupt


def _disk_error(error: OSError, cache: str) -> str:
    place = next(
        (p for p in [Path(cache), *Path(cache).resolve().parents] if p.exists()), Path("/")
    )
    free = f" ({shutil.disk_usage(place).free / 1e6:.0f} MB free)" if error.errno == 28 else ""
    return (
        f"{error.filename or cache}: {error.strerror or error}{free}; finished shards are kept in {cache}, nothing "
        "half-written is left there; set it right and the same command continues"
    )


def _summary(args: Arguments, outcome: Outcome) -> None:
    failures = {name: n for name, n in outcome.statuses.items() if name != "ok"}
    if not outcome.computed and not outcome.copied and outcome.complete:
        print(f"nothing to do: {args.cache} holds the masks of all {outcome.images} images")
    else:
        speed = outcome.computed / outcome.seconds
        copied = f" and {outcome.copied} copied" if outcome.copied else ""
        cores = (
            "" if args.dask or args.device != "cpu" else f", {speed / outcome.workers:.1f} a core"
        )
        print(
            f"{outcome.computed} of {outcome.images} masks computed{copied} in {outcome.seconds:.1f} s "
            f"({speed:.1f} images/s{cores}), {outcome.bytes / 1e6:.1f} MB written"
        )
    if not outcome.complete:
        print(f"part {args.part} is done; the cache is finished by the last part")
    if failures:
        lists = os.path.join(args.cache, FAILURES) if outcome.complete else "the finished cache"
        print(
            "failed: "
            + ", ".join(f"{n} {name}" for name, n in failures.items())
            + f"; {lists} names them"
        )


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--part {text}: must be I/N with 1 <= I <= N, as in --part 3/64")
    return int(match[1]), int(match[2])


def _resolve(args: Arguments) -> str:
    name = estimators.AUTO if args.estimator == "auto" else args.estimator
    if name == "files":
        if args.refine != "none":
            raise UsageError(
                "--refine does not go with --estimator files: its maps are taken as they are"
            )
        if args.maps is None or not os.path.isdir(args.maps):
            raise UsageError(
                f"--estimator files needs --maps FOLDER with the maps; {args.maps} is no folder"
            )
        return name
    if args.maps is not None:
        raise UsageError("--maps goes with --estimator files")
    if name in estimators.NETWORKS:
        return name
    try:
        return estimators.load(name).name
    except ValueError as error:
        raise UsageError(str(error)) from error


def _with_weights(args: Arguments, recipe: Recipe) -> Recipe:
    if not recipe.network:
        for name, default in (
            ("weights", None),
            ("device", "cpu"),
            ("batch", None),
            ("precision", "fp32"),
        ):
            if getattr(args, name) != default:
                raise UsageError(
                    f"--{name} is for networks ({', '.join(sorted(estimators.NETWORKS))}); "
                    f"{recipe.estimator} is none"
                )
        return recipe
    batch = BATCH[args.device] if args.batch is None else args.batch
    if not 1 <= batch <= LARGEST_BATCH:
        raise UsageError(f"--batch {batch}: must be 1 to {LARGEST_BATCH}")
    if args.device != "cpu" and args.dask is not None:
        raise UsageError(
            "--device cuda does not go with --dask; for several GPUs run several --part, each with its "
            "own CUDA_VISIBLE_DEVICES"
        )
    source = estimators.weights_of(recipe.estimator)
    path = find(recipe.estimator, source, args.weights)
    if other := unpublished(path, source):
        print(f"note: {path} is not the file that was published under that name ({other})")
    recipe = replace(
        recipe,
        weights=str(path),
        sha256=sha256(path),
        device=args.device,
        precision=args.precision,
        batch=batch,
    )
    load(recipe)  # what is wrong with the file is said before anything is written
    return recipe


if __name__ == "__main__":
    run(main)
