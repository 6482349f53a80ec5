"""How long estimators take, from a JPEG's bytes to the 128 x 128 uint8 row, as a ratio to decoding
alone.

    python -m benchmarks.speed --images ../shared/data/imagenet_sample --json runs/bench/speed.json

One core, CPU time. Every image is decoded and estimated in turn `repeats` times and the fastest
counts, so that other work on the machine disturbs all columns alike; the ratio is of the sums over
all images. Networks are timed where their weights are found.
"""

import data.one_thread  # noqa: F401 - before numpy is imported

# isort: split
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated

import cv2
import numpy as np
import tyro
from tqdm import tqdm

from benchmarks.processes import timed
from benchmarks.publish import PAGE, markdown, publish
from data.cli import UsageError, require, run
from data.resize import resize
from data.sources.images import ImageError, decode, list_images, read_bytes
from preprocess import estimators

TARGETS = {
    "rbd": 6,
    "gs": 8,
    "mr": 8,
    "mc": 8,
    "mbd": 4,
    "fusion": 20,
    "ft": 1.5,
    "spectral": 1.5,
}  # times decoding
SIDE = 128


@dataclass(frozen=True)
class Arguments:
    """Time estimators against decoding alone."""

    images: str
    """Folder of JPEG files."""
    json_file: Annotated[str, tyro.conf.arg(name="json")] = "runs/bench/speed.json"
    """File for the numbers."""
    estimator: str = "all"
    """Estimators, separated by commas."""
    limit: int = 250
    """Images, spread evenly over the folder."""
    repeats: int = 3
    """Times each image is done; the fastest counts."""
    readme: str = PAGE
    """Page whose bench block is written, where it has one."""


def main() -> None:
    args = tyro.cli(Arguments, prog="python -m benchmarks.speed", description=__doc__)
    require(args, limit=1, repeats=1)
    known = [*sorted(estimators.ESTIMATORS), *sorted(estimators.NETWORKS)]  # in turn
    names = known if args.estimator == "all" else args.estimator.split(",")
    absent = [n for n in names if n in estimators.NETWORKS and not estimators.has_weights(n)]
    try:
        paths = list_images(args.images)
        functions = {name: estimators.load(name).working for name in names if name not in absent}
    except ValueError as error:
        raise UsageError(str(error)) from error
    count = min(args.limit, len(paths))
    chosen = paths[np.arange(count) * len(paths) // max(1, count)].tolist()
    contents = [read_bytes(args.images, path) for path in chosen]
    about = {"images": args.images, "repeats": args.repeats, "absent": absent}
    result = about | measure(contents, functions, args.repeats)
    publish(result, table(result), args.json_file, args.readme, "bench")


def measure(contents: list[bytes], functions: dict[str, Callable], repeats: int) -> dict:
    """Milliseconds an image: {"count", "failed", "decode_ms", "estimators": {name: {"ms",
    "ratio"}}}."""
    cv2.setNumThreads(0)
    for function in functions.values():
        function(np.zeros((60, 80, 3), np.uint8))  # compiled before it is timed
    fastest = []
    for content in tqdm(contents, desc="bench", unit="image", leave=False):
        with contextlib.suppress(ImageError):
            seconds = [times(content, functions) for _ in range(repeats)]
            fastest.append({name: min(row[name] for row in seconds) for name in seconds[0]})
    if not fastest:
        raise UsageError("none of the images can be decoded")
    means = {name: 1e3 * fmean(row[name] for row in fastest) for name in fastest[0]}
    decoding = means.pop("decode")
    return {
        "count": len(fastest),
        "failed": len(contents) - len(fastest),
        "decode_ms": decoding,
        "estimators": {name: {"ms": ms, "ratio": ms / decoding} for name, ms in means.items()},
    }


def times(content: bytes, functions: dict[str, Callable]) -> dict[str, float]:
    """CPU seconds of decoding alone and of every estimator, once, in turn."""
    raw = np.frombuffer(content, np.uint8)
    decode(content)  # the network that ran last has emptied the processor's caches
    seconds = {"decode": timed(cv2.imdecode, raw, cv2.IMREAD_COLOR)[0]}
    return seconds | {name: timed(row, content, f)[0] for name, f in functions.items()}


def row(content: bytes, function: Callable) -> np.ndarray:
    """A file's bytes to the (128, 128) uint8 row, as the batch stage does."""
    saliency_map = resize(function(decode(content)), SIDE, SIDE)
    return np.rint(np.clip(saliency_map, 0, 1) * 255).astype(np.uint8)


def table(result: dict) -> str:
    """The result as Markdown: estimators by ratio."""
    rows = []
    for name, entry in sorted(result["estimators"].items(), key=lambda item: item[1]["ms"]):
        target = f"≤ {TARGETS[name]}" if name in TARGETS else ""
        rows.append(f"`{name}` | {entry['ms']:.2f} | {entry['ratio']:.2f} | {target}")
    rows += [f"`{name}` | no weights here | |" for name in result["absent"]]
    return (
        f"{result['count']} images, one core; decoding alone (`cv2.imdecode`, full size) takes "
        f"{result['decode_ms']:.2f} ms.\n\n"
        + markdown("estimator | ms/image | × decoding | target", rows)
    )


if __name__ == "__main__":
    run(main)
