"""Stage 1: one saliency mask an image, once, into HDF5 shards.

    python -m preprocess /data/imagenet/train caches/imagenet-rbd --estimator rbd --workers 16
    python -m preprocess IMAGES CACHE --estimator files --maps MASKS     # masks that exist already

The same command continues an interrupted run; run again, it finds nothing to do.
"""

from __future__ import annotations

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"  # before numpy is imported, here and in the workers: two BLAS threads double the CPU time

import signal  # noqa: E402
import sys  # noqa: E402
from dataclasses import dataclass, field  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Annotated  # noqa: E402

import tyro  # noqa: E402

from data.cli import UsageError, run  # noqa: E402
from data.images import MAX_PIXELS  # noqa: E402
from preprocess import estimators  # noqa: E402
from preprocess.blocks import Recipe  # noqa: E402
from preprocess.build import build  # noqa: E402


@dataclass(frozen=True)
class Arguments:
    """Compute a foreground saliency mask for every image of a folder into a cache of HDF5 shards."""

    images: Annotated[str, tyro.conf.Positional]
    """Folder of images (JPEG, PNG, WebP, BMP), any depth."""
    cache: Annotated[str, tyro.conf.Positional]
    """Folder of the cache to make or continue."""
    estimator: str = "auto"
    """Saliency method: auto, files (maps on disk, see --maps), or one of the names that an unknown one lists."""
    maps: str | None = None
    """With --estimator files: folder of grey PNG maps, one an image, at the image's relative path (.png)."""
    side: int = 128
    """Side of the stored masks, in pixels; the whole image is squashed to side x side."""
    shard_size: int = 4096
    """Images a shard."""
    workers: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    """Processes that decode and estimate (default: the CPUs this process may use)."""
    max_pixels: int = MAX_PIXELS
    """Images with more pixels are refused by their header, before memory is taken."""


def main() -> None:
    args = tyro.cli(Arguments, prog="python -m preprocess", description=__doc__)
    if args.side < 8 or args.shard_size < 1 or args.workers < 1:
        raise UsageError("--side must be at least 8, --shard-size and --workers at least 1")
    recipe = Recipe(_resolve(args), (), args.side, args.maps, args.max_pixels)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"estimator {recipe.estimator}, masks {args.side}x{args.side}, {args.workers} workers -> {args.cache}")
    try:
        outcome = build(args.images, args.cache, recipe, args.shard_size, args.workers)
    except KeyboardInterrupt:
        print(f"stopped: the shard in progress is dropped, finished ones are kept in {args.cache}; "
              "the same command continues", file=sys.stderr)
        raise SystemExit(130) from None
    failures = {name: n for name, n in outcome.statuses.items() if name != "ok"}
    if not outcome.computed:
        print(f"nothing to do: {args.cache} holds the masks of all {outcome.images} images")
    else:
        size = sum(f.stat().st_size for f in Path(args.cache).iterdir())
        print(f"{outcome.computed} of {outcome.images} masks computed in {outcome.seconds:.1f} s "
              f"({outcome.computed / outcome.seconds:.0f} images/s), {size / 1e6:.1f} MB")
    if failures:
        print("failed: " + ", ".join(f"{n} {name}" for name, n in failures.items())
              + f"; `python -m data info {args.cache}` lists them")


def _resolve(args: Arguments) -> str:
    name = estimators.AUTO if args.estimator == "auto" else args.estimator
    if name == "files":
        if args.maps is None or not os.path.isdir(args.maps):
            raise UsageError(f"--estimator files needs --maps FOLDER with the maps; {args.maps} is no folder")
        return name
    if args.maps is not None:
        raise UsageError("--maps goes with --estimator files")
    try:
        return estimators.load(name).name
    except ValueError as error:
        raise UsageError(str(error)) from error


if __name__ == "__main__":
    run(main)
