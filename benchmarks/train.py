"""Speed of the trainer as ratios in one run: pairs of views, copy-paste, colours, a step, memory
and packs.

    python -m benchmarks.train                      # `make bench-train`: JSON in runs/bench, the
    table in the README

CPU time of one core, ours and the baseline in turn on the same images, the median of the
repetitions: other work on the machine disturbs both alike. On a GPU: benchmarks/gpu.py.
"""

from __future__ import annotations

import data.one_thread  # noqa: F401 - before numpy is imported

# isort: split
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch
import tyro
from tqdm import tqdm

from benchmarks import train_parts as parts
from benchmarks.publish import about, publish
from data.cache.reader import Cache
from data.cli import UsageError, run
from data.sources.images import open_images
from preprocess.pipeline import build
from preprocess.recipe import Recipe


@dataclass(frozen=True)
class Arguments:
    """Time the trainer's parts against torchvision's transforms and against a ResNet-50 step."""

    data: str = "../shared/data"
    """Folder with imagenet_sample, dtd and imagenette_128."""
    json: str = "runs/bench/train.json"
    """File for the numbers."""
    limit: int = 250
    """Images of imagenet_sample, a multiple of 10."""
    repeats: int = 3
    """Times each part is done; the median counts."""
    batch: int = 4
    """Images of the ResNet-50 step."""
    taken: int = 100_000
    """Images that the workers read while their memory is watched."""
    readme: str = "docs/benchmarks.md"
    """File whose bench-train block is written, where it has one."""


def main() -> int:
    args = tyro.cli(Arguments, prog="python -m benchmarks.train", description=__doc__)
    root = Path(args.data)
    for name in ("imagenet_sample", "dtd", "imagenette_128"):
        if not (root / name).is_dir():
            raise UsageError(f"{root / name}: no such folder; --data names the one that holds it")
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    images = open_images(root / "imagenet_sample")
    images = images.take(slice(args.limit))
    with tempfile.TemporaryDirectory(prefix="bench-train-") as scratch:
        folder = Path(scratch)
        build(str(root / "imagenet_sample"), str(folder / "masks"), Recipe("rbd", (), 128))
        with tqdm(total=args.repeats, desc="loader", unit="pass") as bar:
            loader = parts.loader(
                images,
                Cache(folder / "masks"),
                str(root / "dtd"),
                args.repeats,
                lambda _: bar.update(),
            )
        result = {
            **about(),
            "images": len(images),
            "repeats": args.repeats,
            "loader": loader,
            "step": parts.steps(args.batch, args.repeats, parts.CPU),
            "memory": parts.memory(folder, args.taken),
            "pack_read": parts.packs(
                str(root / "imagenette_128" / "train"), folder / "same", args.repeats, 0, False
            ),
            "pack_views": parts.packs(
                str(root / "imagenet_sample"), folder / "small", args.repeats, 256, True
            ),
        }
    publish(result, table(result), args.json, args.readme, "bench-train")
    return 0


def table(result: dict) -> str:
    """The result as Markdown: what, the number, the target."""
    loader, step = result["loader"], result["step"]
    cpu = {name: entry["cpu_ms"] for name, entry in loader.items() if isinstance(entry, dict)}
    off, grey, colours, baseline = cpu["off"], cpu["grey"], cpu["photometric"], cpu["torchvision"]
    whole = 1e3 * step["step_s"] / step["batch"] + colours  # ms a pair
    lines = ["| what | measured | target |", "|---|---|---|"]

    def row(what: str, measured: str, target: str = "") -> None:
        lines.append(f"| {what} | {measured} | {target} |")

    row("Pillow and torchvision, MoCo v2's transforms, no copy-paste, ms a pair", f"{baseline:.2f}")
    row(
        "ours with copy-paste (`grey`): loader + colours on the same CPU, ms a pair",
        f"{grey:.2f} + {colours:.2f}",
    )
    row(
        "pairs a second a core, ours with colours against torchvision's",
        f"{1e3 / (grey + colours):.0f} / {1e3 / baseline:.0f} = **{baseline / (grey + colours):.2f} ×**",
        "≥ 4 ×",
    )
    row(
        "the same, our loader alone",
        f"{1e3 / grey:.0f} / {1e3 / baseline:.0f} = {baseline / grey:.2f} ×",
    )
    wall = {name: loader[name]["wall_ms"] for name in cpu}
    row(
        "the same with colours, by wall time",
        f"{wall['torchvision'] / (wall['grey'] + wall['photometric']):.2f} ×",
    )
    for name, target in (
        ("grey", 8),
        ("texture", None),
        ("image", 40),
        ("random", None),
        ("swap", 40),
    ):
        share = 100 * (cpu[name] - off) / cpu[name]
        row(
            f"copy-paste's share of a pair's time in the loader, `{name}`",
            f"{share:.1f} % of {cpu[name]:.2f} ms",
            f"≤ {target} %" if target else "",
        )
    row("`swap`: donors' decoding, ms a pair", f"{loader['donors_decoding_ms']:.2f}")
    row(
        "`swap`: its negative's forward pass, share of a ResNet-50 step",
        f"{100 * (step['with_negative_s'] / step['step_s'] - 1):.0f} % more",
    )
    row(
        f"colours' share of a MoCo v2 step (ResNet-50, 224 px, CPU, batch {step['batch']})",
        f"{100 * colours / whole:.2f} %",
        "≤ 4 %",
    )
    for name in ("grey", "texture"):
        row(
            f"a step with DiLo, `{name}`, against none, the loader on the same core",
            f"{100 * (cpu[name] - off) / (whole + off):+.2f} %",
            "≤ 2 %",
        )
    memory = result["memory"]
    row(
        f"a worker's private memory, {memory['read']:,} images read of a list of {memory['paths']:,}",
        f"{memory['after_a_tenth_mb']:.0f} MB after a tenth, {memory['at_the_end_mb']:.0f} MB at the end",
        "flat",
    )
    for name, what, target in (
        ("pack_read", "the same bytes, read alone", "≥ 1.5 ×"),
        ("pack_views", "shrunk to 256 px when packed, read and made into pairs", "≥ 1.5 ×"),
    ):
        entry = result[name]
        row(
            f"a pack against loose files, page cache dropped: {entry['images']:,} images, {what}",
            f"{entry['ratio']:.2f} ×",
            target,
        )
    lines += [
        "",
        f"{result['images']} images of ImageNet at 224 px, medians of {result['repeats']}, {result['date']}, "
        f"{result['machine']}, in part busy with other work; times are CPU time of one "
        "core where not said otherwise. Pages were dropped by `posix_fadvise`; directory entries stay cached, so "
        "a disk that was never read would favour packs more.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
