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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch.profiler import ProfilerActivity

from benchmarks.publish import MEASURED, PAGE, about, markdown, publish
from benchmarks.train_parts import Step, moco_step, seconds, supervised_step
from data.cli import UsageError, require, run
from data.parallel import cpus
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
NAMES = (SUPERVISED, *STEPS, TRAINER)
MODES = {"step, CUDA graphs": "reduce-overhead"}  # of torch.compile
PROFILED, LARGEST = 5, 8  # steps, and operations that are named


@dataclass(frozen=True)
class Arguments:
    """Images a second of a MoCo v2 run on a GPU, of its steps alone, and of a supervised step."""

    images: str = "../shared/data/imagenet_sample"
    """Folder of photographs at their own size; they are used again and again."""
    workers: int = field(default_factory=cpus)
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
    only: tuple[Literal[NAMES], ...] = NAMES
    """What is measured."""
    network: Literal["resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = (
        "resnet50"
    )
    """Backbone."""
    size: int = 224
    """Side of a view, in pixels."""
    device: Literal["cuda", "cpu"] = "cuda"
    """cuda, or cpu to try the program."""
    json: str = "runs/bench/gpu.json"
    """File for the numbers."""
    readme: str = PAGE
    """File whose bench-gpu block is written by a run on a GPU, where it has one."""


def main() -> int:
    args = tyro.cli(Arguments, prog="python -m benchmarks.gpu", description=__doc__)
    config = checked(args)
    result = {
        **about(),
        "network": args.network,
        "size": args.size,
        "precision": "bfloat16" if args.device == "cuda" else "float32",
        "steps": args.steps,
        "gpu": torch.cuda.get_device_name() if args.device == "cuda" else "no GPU",
        "torch": torch.__version__,
        "batch": args.batch,
        "workers": args.workers,
        "cpus": os.cpu_count(),
        "background": args.background,
        "compile": args.compile,
        "images_per_s": {},
        "profile": {},
        "not_run": {},
    }
    try:
        measure(args, config, result)
    finally:  # what was measured before the rest was stopped
        page = args.readme if args.device == "cuda" and result["images_per_s"] else None
        publish(result, table(result), args.json, page, "bench-gpu")
    return 0


def checked(args: Arguments) -> Config:
    """The preset that is measured. UsageError where an option cannot be meant."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("no GPU that torch can use here: this benchmark needs one")
    if not Path(args.images).is_dir():
        raise UsageError(f"{args.images}: no such folder; --images names one with photographs")
    list_images(args.images)
    require(args, batch=1, steps=1, workers=0)
    config = configure(images="", out="", batch=args.batch, network=args.network, size=args.size)
    trainer_config(args, config, "").check()
    return config


Shares = dict[str, float]


def measure(args: Arguments, config: Config, result: dict) -> None:
    """Put into `result` what was begun in time: `images_per_s` by name, of the trainer `waiting`
    and `memory_gb` too; `profile`, what the time of the step that is not compiled goes into, see
    `shares`; and `not_run`, the reason of what was not begun or failed."""
    began, device = time.monotonic(), choose_device(args.device)
    speeds = result["images_per_s"]
    for name in args.only:
        try:
            if time.monotonic() - began > args.seconds:
                raise UsageError(f"{args.seconds:.0f} s are over")
            if name == TRAINER:
                speeds |= trainer(args, config)
                continue
            step = step_of(name, config, device)
            speeds[name] = args.batch / seconds(step, device, max(1, args.steps // 4))
            if name == "step":
                result["profile"] = shares(step, device)
            torch.compiler.reset()
        except (RuntimeError, ValueError, OSError) as error:  # the others are still measured
            reason = " ".join(str(error).split()).replace("|", "/")[:200]
            result["not_run"][name] = reason
            print(f"{name}: not run: {reason}")


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
    names = [os.fsdecode(name) for name in list_images(str(source)).tolist()]
    to.mkdir()
    for i in range(count):
        name = names[i % len(names)]
        shutil.copy(source / name, to / f"{i:06d}{Path(name).suffix}")


def trainer_config(args: Arguments, config: Config, folder: str) -> Config:
    """The trainer's run, in a folder with images and masks."""
    return change(
        config,
        images=f"{folder}/images",
        masks=f"{folder}/masks",
        out=f"{folder}/run",
        workers=args.workers,
        epochs=args.steps // 8 + 1,
        log_every=max(1, args.steps // 12),
        checkpoint_every=10**6,
        background=args.background,
        compile=args.compile,
        device=args.device,
    )


def trainer(args: Arguments, config: Config) -> dict[str, float]:
    """Images a second, share of waiting for images and GB of memory: medians of the log's lines
    after a third."""
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as scratch:
        run_config = trainer_config(args, config, scratch)
        repeat(Path(args.images), Path(run_config.images), 8 * args.batch)
        build(run_config.images, run_config.masks, Recipe("centre", (), 128), workers=args.workers)
        train(run_config, stop_at=args.steps)
        log = Path(run_config.out, "log.jsonl").read_text()
        lines = [json.loads(line) for line in log.splitlines()]
    counted = lines[max(WARM, len(lines) // 3) :] or lines
    names = {TRAINER: "images_per_second", "waiting": "waiting", "memory_gb": "memory_gb"}
    return {k: statistics.median(line[name] for line in counted) for k, name in names.items()}


def table(result: dict) -> str:
    """The result as Markdown; what was not measured is "not run"."""
    speeds = result["images_per_s"]
    not_run = {name: f"not run: {reason}" for name, reason in result["not_run"].items()}

    def shown(name: str, form: str = "{:.0f}") -> str:
        return form.format(speeds[name]) if name in speeds else not_run.get(name, "not run")

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
        f"{markdown(MEASURED, rows)}\n\nMoCo v2, {result['network']} at {result['size']} px, batch "
        f"{result['batch']}, {result['precision']}, {result['steps']} steps of the trainer, "
        f"{'' if result['compile'] else 'not '}compiled, background `{result['background']}`, "
        f"{result['workers']} workers on {result['cpus']} CPUs, {result['gpu']}, torch "
        f"{result['torch']}, {result['date']}.{profile}"
    )


if __name__ == "__main__":
    run(main)
