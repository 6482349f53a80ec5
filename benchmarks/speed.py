"""How long estimators take, from a JPEG's bytes to the 128 x 128 uint8 row, as a ratio to decoding
alone.

    python -m benchmarks.speed --images ../shared/data/imagenet_sample --json runs/bench/speed.json

One core, CPU time. Every image is decoded and estimated in turn `repeats` times and the fastest
counts, so that other work on the machine disturbs all columns alike; the ratio is of the sums over
all images. Networks are timed where their weights are found; with --untrained also without, for
random weights take as long.
"""

from __future__ import annotations

import data.one_thread  # noqa: F401 - before numpy is imported

# isort: split
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
import tyro
from tqdm import tqdm

from benchmarks.publish import publish
from data.cli import UsageError, run
from data.resize import resize
from data.sources.images import ImageError, decode, list_images, read_bytes
from preprocess import estimators
from preprocess.vision.frames import inner_box
from preprocess.vision.pixels import lab_planes, working_image
from preprocess.vision.superpixels import slic

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
    untrained: bool = False
    """Give networks whose weights are not here random ones."""
    limit: int = 250
    """Images, spread evenly over the folder."""
    repeats: int = 3
    """Times each image is done; the fastest counts."""
    readme: str = "docs/benchmarks.md"
    """Page whose bench block (with --untrained: bench-networks) is written, where it has one."""


def main() -> int:
    args = tyro.cli(Arguments, prog="python -m benchmarks.speed", description=__doc__)
    known = sorted(estimators.ESTIMATORS | estimators.NETWORKS)
    names = known if args.estimator == "all" else args.estimator.split(",")
    absent = [
        name for name in names if name in estimators.NETWORKS and not estimators.has_weights(name)
    ]
    try:
        paths = list_images(args.images).tolist()
        functions = {name: estimators.load(name).working for name in names if name not in absent}
        if args.untrained:
            absent = [name for name in absent if name != "onnx"]  # a file is its network
            functions |= {f"{name} (random weights)": untrained(name).working for name in absent}
    except (FileNotFoundError, ValueError) as error:
        raise UsageError(str(error)) from error
    if len(paths) > args.limit:
        paths = [paths[i * len(paths) // args.limit] for i in range(args.limit)]
    result = measure([read_bytes(args.images, p) for p in paths], functions, args.repeats)
    result["absent"] = [] if args.untrained else absent
    publish(
        {"images": args.images, "repeats": args.repeats, **result},
        table(result),
        args.json_file,
        args.readme,
        "bench-networks" if args.untrained else "bench",
    )
    return 0


def measure(contents: list[bytes], functions: dict[str, Callable], repeats: int) -> dict:
    """Milliseconds an image: {"count", "failed", "decode_ms", "estimators": {name: {"ms",
    "ratio"}}, "stages": {stage: ms}}."""
    cv2.setNumThreads(0)
    for function in functions.values():
        function(np.zeros((60, 80, 3), np.uint8))  # compiled before it is timed
    totals, stages = [], []
    for content in tqdm(contents, desc="bench", unit="image", leave=False):
        try:
            decode(content)
        except ImageError:
            continue
        totals.append(fastest(lambda content=content: times(content, functions), repeats))
        stages.append(fastest(lambda content=content: rbd_stages(content), repeats))
    if not totals:
        raise UsageError("none of the images can be decoded")
    means = {name: 1e3 * float(np.mean([row[name] for row in totals])) for name in totals[0]}
    decoding = means["decode"]
    return {
        "count": len(totals),
        "failed": len(contents) - len(totals),
        "decode_ms": decoding,
        "estimators": {
            name: {"ms": means[name], "ratio": means[name] / decoding} for name in functions
        },
        "stages": {stage: 1e3 * float(np.mean([s[stage] for s in stages])) for stage in stages[0]},
    }


def fastest(measurement: Callable[[], dict[str, float]], repeats: int) -> dict[str, float]:
    """The smallest of each value over several measurements."""
    rows = [measurement() for _ in range(repeats)]
    return {name: min(row[name] for row in rows) for name in rows[0]}


def times(content: bytes, functions: dict[str, Callable]) -> dict[str, float]:
    """CPU seconds of decoding alone and of every estimator, once, in turn."""
    raw = np.frombuffer(content, np.uint8)
    seconds = {"decode": timed(lambda: cv2.imdecode(raw, cv2.IMREAD_COLOR))}
    for name, function in functions.items():
        seconds[name] = timed(lambda function=function: row(content, function))
    return seconds


def untrained(name: str) -> estimators.Estimator:
    """Network `name` with random weights."""
    import torch

    torch.manual_seed(0)
    architecture = estimators.create(name)
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, architecture.source.files[0])
        torch.save(architecture.build().state_dict(), file)
        return estimators.load(name, weights=file)


def row(content: bytes, function: Callable) -> np.ndarray:
    """A file's bytes to the (128, 128) uint8 row, as the batch stage does."""
    mask = resize(function(decode(content)), SIDE, SIDE)
    return np.rint(np.clip(mask, 0, 1) * 255).astype(np.uint8)


def rbd_stages(content: bytes) -> dict[str, float]:
    """Seconds of each stage of RBD, once."""
    clock = [time.process_time()]

    def lap() -> float:
        clock.append(time.process_time())
        return clock[-1] - clock[-2]

    rbd, took = estimators.create("rbd"), {}
    image = decode(content)
    took["decode"] = lap()
    small = working_image(image, 256)
    took["resize"] = lap()
    inner_box(small)
    took["frame"] = lap()
    slic(lab_planes(small), iterations=rbd.iterations)
    took["superpixels"] = lap()
    parts = rbd.regions(image)
    _ = parts.colour, parts.space, parts.near
    took["graph"] = max(0.0, lap() - took["resize"] - took["frame"] - took["superpixels"])
    values = rbd.solve(parts)
    took["solve"] = lap()
    np.rint(resize(parts.paint(values), SIDE, SIDE) * 255).astype(np.uint8)
    took["write"] = lap()
    return took


def timed(function: Callable) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def table(result: dict) -> str:
    """The result as Markdown: estimators by ratio, then RBD's stages."""
    lines = [
        f"{result['count']} images, one core; decoding alone (`cv2.imdecode`, full size) takes "
        f"{result['decode_ms']:.2f} ms.",
        "",
        "| estimator | ms/image | × decoding | target |",
        "|---|---|---|---|",
    ]
    for name, entry in sorted(result["estimators"].items(), key=lambda item: item[1]["ms"]):
        target = f"≤ {TARGETS[name]}" if name in TARGETS else ""
        lines.append(f"| `{name}` | {entry['ms']:.2f} | {entry['ratio']:.2f} | {target} |")
    lines += [f"| `{name}` | no weights here | | |" for name in result.get("absent", [])]
    stages = result["stages"]
    lines += [
        "",
        "RBD by stage, ms: " + ", ".join(f"{stage} {ms:.2f}" for stage, ms in stages.items()) + ".",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
