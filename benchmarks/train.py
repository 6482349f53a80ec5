"""Speed of the trainer as ratios in one run: pairs of views, copy-paste, colours, a step, memory
and packs.

    python -m benchmarks.train                         # `make bench-train`: all of it
    python -m benchmarks.train --parts loader packs    # `make bench-datapath`: files to views

CPU time of one core, all in turn on the same images, the median of the repetitions: other work on
the machine disturbs all alike. Beside other loaders: benchmarks/peers.py; on a GPU:
benchmarks/gpu.py.
"""

import data.one_thread  # noqa: F401 - before numpy is imported

# isort: split
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import torch
import tyro

from benchmarks import train_parts as parts
from benchmarks.publish import MEASURED, PAGE, about, markdown, publish
from data.cli import UsageError, require, run

PARTS = ("loader", "step", "memory", "packs")
TARGETS = {"grey": "≤ 8 %", "image": "≤ 40 %", "swap": "≤ 40 %"}  # of a pair's time in the loader


@dataclass(frozen=True)
class Arguments:
    """Time the trainer's parts, and against a ResNet-50 step."""

    data: str = "../shared/data"
    """Folder with imagenet_sample, dtd and imagenette_128."""
    parts: tuple[Literal[PARTS], ...] = PARTS
    """What is measured; the page is written where that is everything."""
    json: str = "runs/bench/train.json"
    """File for the numbers."""
    limit: int = 250
    """Images of imagenet_sample, a multiple of 10."""
    size: int = 224
    """Side of a view, in pixels."""
    repeats: int = 3
    """Times each part is done; the median counts."""
    batch: int = 4
    """Images of the ResNet-50 step."""
    taken: int = 100_000
    """Images that the workers read while their memory is measured."""
    readme: str = PAGE
    """Page whose bench-train block is written, where it has one."""


def main() -> None:
    args = tyro.cli(Arguments, prog="python -m benchmarks.train", description=__doc__)
    require(args, limit=parts.CHUNK, size=1, repeats=1, batch=2, taken=1000)
    root = Path(args.data)
    for name in ("imagenet_sample", "dtd", "imagenette_128"):
        if not (root / name).is_dir():
            raise UsageError(f"{root / name}: no such folder; --data names the one that holds it")
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    result = {**about(), "images": args.limit, "repeats": args.repeats}
    with tempfile.TemporaryDirectory(prefix="bench-train-") as scratch:
        folder, photographs = Path(scratch), str(root / "imagenet_sample")
        if "loader" in args.parts:
            settings = {"textures": str(root / "dtd"), "size": args.size}
            result["loader"] = parts.loader(photographs, folder, args.limit, args.repeats, settings)
        if "step" in args.parts:
            result["step"] = parts.steps(args.batch, args.repeats)
        if "memory" in args.parts:
            result["memory"] = parts.memory(folder, args.taken)
        if "packs" in args.parts:
            small = str(root / "imagenette_128" / "train")
            result["pack_read"] = parts.packs(small, folder / "same", args.repeats)
            result["pack_views"] = parts.packs(photographs, folder / "small", args.repeats, 256)
    block = "bench-train" if set(args.parts) == set(PARTS) else "no page has this block"
    publish(result, table(result), args.json, args.readme, block)


def table(result: dict) -> str:
    """The result as Markdown: what, the number, the target."""
    rows = []
    if "loader" in result:
        rows += loader_rows(result["loader"])
    if "loader" in result and "step" in result:
        rows += step_rows(result["loader"], result["step"])
    if "memory" in result:
        memory = result["memory"]
        rows.append(
            f"a worker's private memory, {memory['read']:,} images read of a list of "
            f"{memory['paths']:,} | {memory['after_a_tenth_mb']:.0f} MB after a tenth, "
            f"{memory['at_the_end_mb']:.0f} MB at the end | flat"
        )
    for name, what in (
        ("pack_read", "the same bytes, read alone"),
        ("pack_views", "shrunk to 256 px when packed, read and made into pairs"),
    ):
        if name in result:
            rows.append(
                f"a pack against loose files, page cache dropped: {result[name]['images']:,} "
                f"images, {what} | {result[name]['ratio']:.2f} × | ≥ 1.5 ×"
            )
    note = (
        f"{result['images']} images of ImageNet, medians of {result['repeats']}, {result['date']}, "
        f"{result['machine']}, in part busy with other work; times are CPU time of one core where "
        "not said otherwise. Pages were dropped by `posix_fadvise`; directory entries stay cached, "
        "so a disk that was never read would favour packs more."
    )
    return f"{markdown(MEASURED, rows)}\n\n{note}"


def loader_rows(loader: dict) -> list[str]:
    """Milliseconds of a pair, and the share of copy-paste."""
    cpu = {name: entry["cpu_ms"] for name, entry in loader.items()}
    rows = [
        "ours with copy-paste (`grey`): loader + colours on the same CPU, ms a pair | "
        f"{cpu['grey']:.2f} + {cpu['photometric']:.2f} | "
    ]
    for name in parts.BACKGROUNDS:
        share = 100 * (cpu[name] - cpu["off"]) / cpu[name]
        rows.append(
            f"copy-paste's share of a pair's time in the loader, `{name}` | {share:.1f} % of "
            f"{cpu[name]:.2f} ms | {TARGETS.get(name, '')}"
        )
    return rows


def step_rows(loader: dict, step: dict) -> list[str]:
    """What colours and copy-paste add to a ResNet-50 step."""
    cpu = {name: entry["cpu_ms"] for name, entry in loader.items()}
    whole = 1e3 * step["step_s"] / step["batch"] + cpu["photometric"]  # ms a pair
    rows = [
        f"colours' share of a MoCo v2 step (ResNet-50, CPU, batch {step['batch']}) | "
        f"{100 * cpu['photometric'] / whole:.2f} % | ≤ 4 %",
    ]
    for name in ("grey", "texture"):
        more = 100 * (cpu[name] - cpu["off"]) / (whole + cpu["off"])
        rows.append(
            f"a step with DiLo, `{name}`, against none, the loader on the same core | {more:+.2f} "
            "% | ≤ 2 %"
        )
    return rows


if __name__ == "__main__":
    run(main)
