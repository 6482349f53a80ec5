"""The trainer's speed on a GPU: MoCo v2, ResNet-50 at 224 px, real images with DiLo against random
tensors.

    python -m benchmarks.gpu --workers 14           # `make bench-gpu`: JSON in runs/bench, the
    table in the README

One run measures both: the trainer as it is (decode, crop, paste, copy, colours, step), and the same
step on tensors that lie on the GPU already. What the loader cannot hide is the difference.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from benchmarks import train_parts as parts
from benchmarks.publish import about, publish
from data.cli import UsageError, run
from data.sources.images import list_images
from preprocess.pipeline import build
from preprocess.recipe import Recipe
from train.loop import train
from train.presets import configure

WARM = 2  # lines of the log left out: cudnn tries its kernels, and the workers start


@dataclass(frozen=True)
class Arguments:
    """Images a second of a MoCo v2 run on a GPU against those of its steps alone."""

    images: str = "../shared/data/imagenet_sample"
    """Folder of photographs at their own size; they are used again and again."""
    workers: int = os.cpu_count() or 1
    """Processes that decode and crop."""
    batch: int = 256
    """Images a step."""
    steps: int = 120
    """Steps of the run; the first third is not counted."""
    background: str = "grey"
    """What foregrounds are pasted onto: grey, or another of the trainer's --background."""
    compile: bool = False
    """Compile the networks of both with torch.compile: minutes at the start."""
    json: str = "runs/bench/gpu.json"
    """File for the numbers."""
    readme: str = "docs/benchmarks.md"
    """File whose bench-gpu block is written, where it has one."""


def main() -> int:
    args = tyro.cli(Arguments, prog="python -m benchmarks.gpu", description=__doc__)
    if not torch.cuda.is_available():
        raise UsageError("no GPU that torch can use here: this benchmark needs one")
    if not Path(args.images).is_dir():
        raise UsageError(f"{args.images}: no such folder; --images names one with photographs")
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as scratch:
        folder = Path(scratch)
        repeat(Path(args.images), folder / "images", 8 * args.batch)
        recipe = Recipe("centre", (), 128)
        build(str(folder / "images"), str(folder / "masks"), recipe, workers=args.workers)
        ours = trainer(args, folder)
    alone = parts.steps(args.batch, 30, torch.device("cuda"), 8, args.compile)
    result = {
        **about(),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "batch": args.batch,
        "workers": args.workers,
        "cpus": os.cpu_count(),
        "background": args.background,
        "compile": args.compile,
        **ours,
        "alone_per_s": args.batch / alone["step_s"],
        "with_negative": alone["with_negative_s"] / alone["step_s"],
    }
    publish(result, table(result), args.json, args.readme, "bench-gpu")
    return 0


def repeat(source: Path, to: Path, count: int) -> None:
    """`count` files from the images of `source` in turn. UsageError where it has none."""
    names = [name.decode() for name in list_images(str(source)).tolist()]
    to.mkdir()
    for i in range(count):
        name = names[i % len(names)]
        shutil.copy(source / name, to / f"{i:06d}{Path(name).suffix}")


def trainer(args: Arguments, folder: Path) -> dict[str, float]:
    """Images a second, share of waiting for images and GB of memory: medians of the log's lines
    after a third."""
    config = configure(
        images=str(folder / "images"),
        masks=str(folder / "masks"),
        out=str(folder / "run"),
        batch=args.batch,
        workers=args.workers,
        epochs=args.steps // 8 + 1,
        log_every=max(1, args.steps // 12),
        checkpoint_every=10**6,
        background=args.background,
        compile=args.compile,
    )
    train(config, stop_at=args.steps)
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    counted = lines[max(WARM, len(lines) // 3) :]
    names = {
        "ours_per_s": "images_per_second",
        "waiting": "waiting",
        "memory_gb": "memory_gb",
    }
    return {k: statistics.median(line[name] for line in counted) for k, name in names.items()}


def table(result: dict) -> str:
    """The result as Markdown."""
    ratio = 100 * result["ours_per_s"] / result["alone_per_s"]
    rows = [
        ("images/s of the trainer, DiLo on", f"{result['ours_per_s']:.0f}", ""),
        ("images/s of its steps on random tensors", f"{result['alone_per_s']:.0f}", ""),
        ("the trainer against its steps alone", f"**{ratio:.0f} %**", "≥ 85 %"),
        ("share of the time that the trainer waited for images", f"{result['waiting']:.0%}", ""),
        ("memory of the GPU", f"{result['memory_gb']:.1f} GB", ""),
        (
            "a step with `swap`'s extra negative, against one without",
            f"{result['with_negative']:.2f} ×",
            "",
        ),
    ]
    lines = ["| what | measured | target |", "|---|---|---|"]
    lines += [f"| {what} | {measured} | {target} |" for what, measured, target in rows]
    return "\n".join(
        [
            *lines,
            "",
            f"MoCo v2, ResNet-50 at 224 px, batch {result['batch']}, bfloat16"
            f"{', compiled' if result['compile'] else ''}, background `{result['background']}`, "
            f"{result['workers']} workers on {result['cpus']} CPUs, {result['gpu']}, "
            f"torch {result['torch']}, {result['date']}.",
        ]
    )


if __name__ == "__main__":
    run(main)
