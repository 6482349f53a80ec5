"""The trainer's speed on a GPU: MoCo v2, ResNet-50 at 224 px, against a plain supervised step.

    python -m benchmarks.gpu --workers 14           # `make bench-gpu`: JSON in runs/bench, the
    table in docs/benchmarks.md

One run measures all, in at most six minutes: what cannot begin in time is "not run". The baseline
is a supervised step of the same network (cross entropy, the same batch, channels last, bfloat16,
fused SGD, torch.compile) on random tensors; a MoCo step costs 4/3 of it, so 3/4 of its images a
second are all that a MoCo step can reach. Then the trainer's own step on random tensors, with what
its time goes into; with torch.compile, with CUDA graphs, without BatchNorm's groups; and the
trainer as it is (decode, crop, paste, copy, colours, step). What the loader cannot hide is the
difference of the trainer and its step.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch.profiler import ProfilerActivity

from benchmarks.publish import MEASURED, PAGE, about, markdown, publish
from benchmarks.train_parts import Step, moco_step, seconds, supervised_step
from data.cli import UsageError, run
from data.sources.images import list_images
from preprocess.pipeline import build
from preprocess.recipe import Recipe
from train.config import Config
from train.distributed import choose_device
from train.loop import train
from train.presets import change, configure

WARM = 2  # lines of the log left out: cudnn tries its kernels, and the workers start
SUPERVISED, TRAINER = "supervised, compiled", "trainer"
# MoCo's step -> what differs from the preset; `extra` is swap's negative
STEPS = {
    "step": {},
    "step, swap": {"background": "swap"},
    "step, compiled": {"compile": True},
    "step, compiled, one group": {"compile": True, "splits": 1},
    "step, CUDA graphs": {"compile": True},
}
MODES = {"step, CUDA graphs": "reduce-overhead"}  # of torch.compile
PROFILED, LARGEST = 5, 8  # steps, and operations that are named


@dataclass(frozen=True)
class Arguments:
    """Images a second of a MoCo v2 run on a GPU, of its steps alone, and of a supervised step."""

    images: str = "../shared/data/imagenet_sample"
    """Folder of photographs at their own size; they are used again and again."""
    workers: int = os.cpu_count() or 1
    """Processes that decode and crop."""
    batch: int = 256
    """Images a step."""
    steps: int = 120
    """Steps of the run, the first third of which is not counted; a quarter of it for each step
    alone."""
    background: str = "grey"
    """What foregrounds are pasted onto: grey, or another of the trainer's --background."""
    compile: bool = False
    """Compile the trainer's networks too: a minute at its start."""
    seconds: float = 360.0
    """Nothing begins after so long."""
    only: tuple[str, ...] = (SUPERVISED, *STEPS, TRAINER)
    """What is measured."""
    network: str = "resnet50"
    """Backbone."""
    size: int = 224
    """Side of a view, in pixels."""
    device: str = "cuda"
    """cuda, or cpu to try the program."""
    json: str = "runs/bench/gpu.json"
    """File for the numbers."""
    readme: str = PAGE
    """File whose bench-gpu block is written, where it has one."""


def main() -> int:
    args = tyro.cli(Arguments, prog="python -m benchmarks.gpu", description=__doc__)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("no GPU that torch can use here: this benchmark needs one")
    if not Path(args.images).is_dir():
        raise UsageError(f"{args.images}: no such folder; --images names one with photographs")
    speeds, profile = measure(args)
    result = {
        **about(),
        "gpu": torch.cuda.get_device_name() if args.device == "cuda" else "no GPU",
        "torch": torch.__version__,
        "batch": args.batch,
        "workers": args.workers,
        "cpus": os.cpu_count(),
        "background": args.background,
        "compile": args.compile,
        "images_per_s": speeds,
        "profile": profile,
    }
    publish(result, table(result), args.json, args.readme, "bench-gpu")
    return 0


Shares = dict[str, float]


def measure(args: Arguments) -> tuple[dict[str, float], Shares]:
    """What was begun in time.

    Returns:
        images a second by name; of the trainer `waiting` and `memory_gb` too; and what the time of
        the step that is not compiled goes into, see `shares`.
    """
    began, speeds, profile = time.monotonic(), {}, {}
    device = choose_device(args.device)
    config = configure(images="", out="", batch=args.batch, network=args.network, size=args.size)
    for name in args.only:
        if time.monotonic() - began > args.seconds:
            print(f"{name}: not run, {args.seconds:.0f} s are over")
        elif name == TRAINER:
            speeds |= trainer(args, config)
        else:
            step = step_of(name, config, device)
            speeds[name] = args.batch / seconds(step, device, max(1, args.steps // 4))
            if name == "step":
                profile = shares(step, device)
            torch.compiler.reset()
    return speeds, profile


def shares(step: Step, device: torch.device) -> Shares:
    """Share of a step's time by operation, in 0..1, the largest first: on a GPU of its kernels'."""
    kinds = (ProfilerActivity.CUDA,) if device.type == "cuda" else ()
    with torch.profiler.profile(activities=(ProfilerActivity.CPU, *kinds)) as profiler:
        for number in range(PROFILED):
            step(number)
    times = {
        event.key: event.self_device_time_total if kinds else event.self_cpu_time_total
        for event in profiler.key_averages()
        if event.key.startswith("aten::") or "Optimizer" in event.key
    }
    total = max(sum(times.values()), 1e-9)
    largest = sorted(times, key=times.get, reverse=True)[:LARGEST]
    return {name.removeprefix("aten::"): times[name] / total for name in largest}


def step_of(name: str, config: Config, device: torch.device) -> Step:
    """A step on random tensors."""
    if name == SUPERVISED:
        return supervised_step(config, device)
    changed = change(config, masks="cache", **STEPS[name])
    return moco_step(changed, device, MODES.get(name, "default"))


def repeat(source: Path, to: Path, count: int) -> None:
    """`count` files from the images of `source` in turn. UsageError where it has none."""
    names = [name.decode() for name in list_images(str(source)).tolist()]
    to.mkdir()
    for i in range(count):
        name = names[i % len(names)]
        shutil.copy(source / name, to / f"{i:06d}{Path(name).suffix}")


def trainer(args: Arguments, config: Config) -> dict[str, float]:
    """Images a second, share of waiting for images and GB of memory: medians of the log's lines
    after a third."""
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as scratch:
        images, masks, out = (f"{scratch}/{name}" for name in ("images", "masks", "run"))
        repeat(Path(args.images), Path(images), 8 * args.batch)
        build(images, masks, Recipe("centre", (), 128), workers=args.workers)
        run_config = change(
            config,
            images=images,
            masks=masks,
            out=out,
            workers=args.workers,
            epochs=args.steps // 8 + 1,
            log_every=max(1, args.steps // 12),
            checkpoint_every=10**6,
            background=args.background,
            compile=args.compile,
            device=args.device,
        )
        train(run_config, stop_at=args.steps)
        lines = [json.loads(line) for line in Path(out, "log.jsonl").read_text().splitlines()]
    counted = lines[max(WARM, len(lines) // 3) :] or lines
    names = {TRAINER: "images_per_second", "waiting": "waiting", "memory_gb": "memory_gb"}
    return {k: statistics.median(line[name] for line in counted) for k, name in names.items()}


def table(result: dict) -> str:
    """The result as Markdown; what was not measured is "not run"."""
    speeds = result["images_per_s"]

    def shown(name: str, form: str = "{:.0f}") -> str:
        return form.format(speeds[name]) if name in speeds else "not run"

    def share(name: str, other: str, factor: float = 1.0) -> str:
        both = name in speeds and other in speeds
        return f"{speeds[name] / (factor * speeds[other]):.0%}" if both else "not run"

    cells = [
        ("images/s of a plain supervised step, compiled", shown(SUPERVISED), ""),
        ("images/s of the trainer's step", shown("step"), ""),
        ("the same with `swap`'s extra negative", shown("step, swap"), ""),
        ("the trainer's step, `--compile`", shown("step, compiled"), ""),
        ("the same, BatchNorm in one group", shown("step, compiled, one group"), ""),
        ("the trainer's step, `--compile` with CUDA graphs", shown("step, CUDA graphs"), ""),
        (
            "the step, `--compile`, against 3/4 of the supervised one",
            share("step, compiled", SUPERVISED, 0.75),
            "≥ 95 %",
        ),
        ("images/s of the trainer, DiLo on", shown(TRAINER), ""),
        (
            "the trainer against its step alone",
            share(TRAINER, "step, compiled" if result["compile"] else "step"),
            "≥ 85 %",
        ),
        ("share of the time that the trainer waited for images", shown("waiting", "{:.0%}"), ""),
        ("memory of the GPU", shown("memory_gb", "{:.1f} GB"), ""),
    ]
    rows = map(" | ".join, cells)
    largest = ", ".join(f"{name} {share:.0%}" for name, share in result["profile"].items())
    profile = f" The step's time goes into: {largest or 'not run'}."
    return (
        f"{markdown(MEASURED, rows)}\n\nMoCo v2, ResNet-50 at 224 px, batch {result['batch']}, "
        f"bfloat16, the trainer {'' if result['compile'] else 'not '}compiled, background "
        f"`{result['background']}`, {result['workers']} workers on {result['cpus']} CPUs, "
        f"{result['gpu']}, torch {result['torch']}, {result['date']}.{profile}"
    )


if __name__ == "__main__":
    run(main)
