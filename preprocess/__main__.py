"""Stage 1: one saliency mask an image, once, into HDF5 shards.

    python -m preprocess /data/imagenet/train caches/imagenet-rbd --estimator rbd --workers 16

IMAGES may be a tar, or a tar of tars, which is not unpacked:

    python -m preprocess ILSVRC2012_img_train.tar CACHE

Masks that exist already, a network on a GPU, one part of a job array, a dask.distributed cluster:

    python -m preprocess IMAGES CACHE --estimator files --maps MASKS
    python -m preprocess IMAGES CACHE --estimator u2net --weights u2net.pth --device cuda
    python -m preprocess IMAGES CACHE --part 3/64
    python -m preprocess IMAGES CACHE --dask tcp://host:8786

The same command continues an interrupted run, and brings a finished cache up to date where images
changed; run again, it finds nothing to do. --repair checks every shard and rebuilds damaged ones.
"""

import data.one_thread  # noqa: F401 - before numpy is imported

# isort: split

import contextlib
import os
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Literal

import tyro

from data.cache.description import LARGEST_SIDE
from data.cache.reader import Cache
from data.cache.shard import STATUS
from data.cli import UsageError, require, run
from data.io import sha256
from data.parallel import cpus
from data.sources.images import MAX_PIXELS, open_images
from data.stopping import ending
from preprocess import estimators
from preprocess.estimators.files import refusals
from preprocess.networks.weights import find, unpublished
from preprocess.pipeline import build
from preprocess.progress import Outcome
from preprocess.recipe import Recipe, load
from preprocess.writer import FAILURES

BATCH = {"cpu": 4, "cuda": 32}  # images a batch by default
LARGEST_BATCH = 1024
# parameters of an ONNX network, and their options
SETTINGS = {
    "side": "net_side",
    "mean": "mean",
    "std": "std",
    "scale": "scale",
    "activation": "activation",
    "stretch": "stretch",
}
REFUSALS = 1000  # maps that are read again for the reason
# the status of most images -> what may be wrong where none can be used
LIKELY = {
    "ok": "does the estimator suit these images, do the maps show the objects bright?",
    "missing": "can this process read the images?",
    "estimator": "does the estimator suit these images?",
    "no_map": "are the maps PNG files of grey levels, classes or cut-outs?",
    "crashed": "is there enough memory for a worker?",
    "too_large": "raise --max-pixels",
}


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
    net_side: int | None = None
    """Of an ONNX network (and the next five): side of the image that it takes, in pixels. Settings
    of files that people have are known."""
    mean: tuple[float, float, float] | None = None
    """Of an ONNX network: mean of each channel, R G B, of the scaled image."""
    std: tuple[float, float, float] | None = None
    """Of an ONNX network: standard deviation of each channel."""
    scale: Literal["max", "255"] | None = None
    """Of an ONNX network: what the image is divided by, its own largest value or 255."""
    activation: Literal["none", "sigmoid"] | None = None
    """Of an ONNX network: what is still to be applied to its output."""
    stretch: Literal["yes", "no"] | None = None
    """Of an ONNX network: whether maps are stretched to 0..1."""
    maps: str | None = None
    """With --estimator files: folder of PNG maps, one an image, at the image's relative path
    (.png): grey levels, classes, or cut-outs."""
    side: int = 128
    """Side of the stored masks, in pixels; the whole image is squashed to side x side."""
    shard_size: int = 4096
    """Images a shard."""
    workers: int = field(default_factory=cpus)
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
    """Check every shard of the cache against its checksum and rebuild the damaged ones."""
    digest: bool = False
    """Compare the contents of all images with those that the masks were made of, not only lengths
    and mtimes."""


def main() -> None:
    args = tyro.cli(Arguments, prog="python -m preprocess", description=__doc__)
    require(args, side=8, shard_size=1, max_pixels=1, workers=0)
    if args.side > LARGEST_SIDE:
        raise UsageError(f"--side {args.side}: must be at most {LARGEST_SIDE}")
    part = _part(args.part)
    recipe = _recipe(args)
    print(_heading(args, recipe), flush=True)
    stopped = (
        f"stopped: the shard in progress is dropped, finished ones are kept in {args.cache}; the "
        "same command continues"
    )
    with ending(stopped):
        outcome = build(
            args.images,
            args.cache,
            recipe,
            shard_size=args.shard_size,
            workers=args.workers,
            listed=args.list,
            part=part,
            cluster=args.dask,
            repair=args.repair,
            digest=args.digest,
        )
        _summary(args, outcome)


def _heading(args: Arguments, recipe: Recipe) -> str:
    where = f"the workers of {args.dask}" if args.dask else f"{args.workers} workers"
    refined = "" if args.refine == "none" else f" refined by {args.refine}"
    network = ""
    if recipe.network:
        network = (
            f" ({recipe.weights}, SHA-256 {recipe.sha256[:16]}..., {recipe.precision} on "
            f"{recipe.device}, batches of {recipe.batch})"
        )
    return (
        f"estimator {recipe.estimator}{network}{refined}, masks {args.side}x{args.side}, {where} "
        f"-> {args.cache}"
    )


def _summary(args: Arguments, outcome: Outcome) -> None:
    if not outcome.computed and not outcome.copied and outcome.complete:
        print(f"nothing to do: {args.cache} holds the masks of all {outcome.images} images")
    else:
        speed = outcome.computed / outcome.seconds
        copied = f" and {outcome.copied} copied" if outcome.copied else ""
        elsewhere = args.dask or args.device != "cpu"
        cores = "" if elsewhere else f", {speed / outcome.workers:.1f} a core"
        print(
            f"{outcome.computed} of {outcome.images} masks computed{copied} in "
            f"{outcome.seconds:.1f} s ({speed:.1f} images/s{cores}), {outcome.bytes / 1e6:.1f} MB "
            "written"
        )
    if not outcome.complete:
        print(
            f"part {args.part} is done; other parts are still to make {outcome.lacking} shards, "
            "the last one to end finishes the cache"
        )
    if outcome.old_bytes:
        print(
            f"old shards take {outcome.old_bytes / 1e6:.1f} MB; when no training reads them any "
            f"more: python -m data clean {args.cache}"
        )
    failures = ", ".join(f"{n} {name}" for name, n in outcome.statuses.items() if name != "ok")
    if failures:
        lists = os.path.join(args.cache, FAILURES) if outcome.complete else "the finished cache"
        print(f"failed: {failures}; {lists} names them")
    if args.maps and outcome.complete and "no_map" in outcome.statuses:
        with contextlib.suppress(UsageError, OSError):  # the images are no longer there
            _print_refusals(args)
    if outcome.empty:
        print(f"{outcome.empty} masks are empty: they show no foreground, and are never pasted")
    if outcome.complete and outcome.statuses.get("ok", 0) <= outcome.empty:
        most = max(outcome.statuses, key=outcome.statuses.get)
        raise UsageError(
            f"{args.cache}: none of the {outcome.images} masks can be pasted "
            f"({failures or 'all are empty'}); {LIKELY.get(most, 'are these images?')}"
        )


def _print_refusals(args: Arguments) -> None:
    """Why maps were not taken, by the first of them."""
    cache = Cache(args.cache)
    paths = cache.paths[cache.status == STATUS["no_map"]]
    first = "" if len(paths) <= REFUSALS else f" of the first {REFUSALS}"
    images = open_images(args.images, args.list).choose(paths[:REFUSALS])
    for reason, number in refusals(args.maps, images).most_common():
        print(f"no_map{first}: {number} {reason}")


def _part(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        part, parts = map(int, text.split("/"))
    except ValueError:
        part, parts = 0, 0
    if not 1 <= part <= parts:
        raise UsageError(f"--part {text}: must be I/N with 1 <= I <= N, as in --part 3/64")
    return part, parts


def _recipe(args: Arguments) -> Recipe:
    name = estimators.AUTO if args.estimator == "auto" else args.estimator
    if name != "files" and args.maps is not None:
        raise UsageError("--maps goes with --estimator files")
    if name == "files" and args.refine != "none":
        raise UsageError(
            "--refine does not go with --estimator files: its maps are taken as they are"
        )
    if name == "files" and not os.path.isdir(args.maps or ""):
        raise UsageError(
            f"--estimator files needs --maps FOLDER with the maps; {args.maps} is no folder"
        )
    for_networks = f"is for networks ({', '.join(sorted(estimators.NETWORKS))}); {name} is none"
    options = dict.fromkeys(("weights", "device", "batch", "precision"), for_networks)
    options = {} if name in estimators.NETWORKS else options
    if name != "onnx":
        options |= dict.fromkeys(SETTINGS.values(), "goes with --estimator onnx")
    for option, reason in options.items():
        if getattr(args, option) != Arguments.__dataclass_fields__[option].default:
            raise UsageError(f"--{option.replace('_', '-')} {reason}")
    refine = () if args.refine == "none" else (("refine", args.refine),)
    recipe = Recipe(name, refine, args.side, args.maps, args.max_pixels)
    try:
        recipe = _with_weights(args, recipe) if recipe.network else recipe
        loaded = load(recipe)  # an error is shown before anything is written
    except ValueError as error:
        raise UsageError(str(error)) from error
    except MemoryError as error:
        raise UsageError(f"{recipe.weights}: too little memory for one image ({error})") from error
    if loaded.single:
        print(f"note: {recipe.weights} has a fixed batch of 1: images go through it one at a time")
    return recipe


def _with_weights(args: Arguments, recipe: Recipe) -> Recipe:
    batch = BATCH[args.device] if args.batch is None else args.batch
    if not 1 <= batch <= LARGEST_BATCH:
        raise UsageError(f"--batch {batch}: must be 1 to {LARGEST_BATCH}")
    if args.device != "cpu" and args.dask is not None:
        raise UsageError(
            "--device cuda does not go with --dask; for several GPUs run several --part, each with "
            "its own CUDA_VISIBLE_DEVICES"
        )
    settings = {}
    if recipe.estimator == "onnx":
        settings = {name: getattr(args, option) for name, option in SETTINGS.items()}
    network = estimators.create(recipe.estimator, **settings)
    path = find(recipe.estimator, network.source, args.weights)
    if other := unpublished(path, network.source):
        print(f"note: {path} is not the file that was published under that name ({other})")
    return replace(
        recipe,
        parameters=recipe.parameters + tuple(asdict(network.for_file(path)).items()),
        weights=str(path),
        sha256=sha256(path),
        device=args.device,
        precision=args.precision,
        batch=batch,
    )


if __name__ == "__main__":
    run(main)
