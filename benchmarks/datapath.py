"""What backgrounds cost a sample, and what a pack of images saves on a cold page cache; into
docs/pretraining.md.

    python -m benchmarks.datapath --json runs/bench/datapath.json

Backgrounds: one core, CPU time from the image file's bytes to two uint8 views (colours not
counted), the paper's probability of 0.3, masks by rbd; the kinds take turns and the fastest round
of each counts. Reading: wall time of the images' bytes, one by one, in an epoch's order; the files'
pages are dropped from the cache first, their names stay.
"""

from __future__ import annotations

import data.one_thread  # noqa: F401 - before numpy is imported

# isort: split
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro

from benchmarks.pages import forget
from benchmarks.publish import publish
from data.cache.reader import Cache
from data.cli import run
from data.sources.images import open_images
from data.sources.pack import Settings, pack
from preprocess.pipeline import build
from preprocess.recipe import Recipe
from train.backgrounds import make_donors
from train.config import Config
from train.loader import Pairs
from train.masks import make_masks
from train.views import PASTED, Views

KINDS = ("none", "grey", "texture", "image", "random", "swap")
TARGETS = {"grey": 0.08, "image": 0.40, "swap": 0.40}
BATCH = 25


@dataclass(frozen=True)
class Arguments:
    """Time the backgrounds, and reading from a pack."""

    images: str = "../shared/data/imagenet_sample"
    """Folder of photographs at their own sizes."""
    textures: str = "../shared/data/dtd"
    """Folder of textures."""
    small: str = "../shared/data/imagenette_128/train"
    """Folder of many small images, for the reading."""
    size: int = 224
    """Side of a view, in pixels."""
    repeats: int = 5
    """Rounds; the fastest counts."""
    json: str = "runs/bench/datapath.json"
    """File for the numbers."""
    readme: str = "docs/benchmarks.md"
    """File whose bench-datapath block is written, where it has one."""


def main() -> int:
    args = tyro.cli(Arguments, prog="python -m benchmarks.datapath", description=__doc__)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        result = {
            "samples": backgrounds(args, scratch),
            "reading": {
                name: reading(folder, f"{scratch}/{name}", args.repeats)
                for name, folder in (("photographs", args.images), ("small images", args.small))
            },
        }
    publish(result, table(result), args.json, args.readme, "bench-datapath")
    return 0


def backgrounds(args: Arguments, scratch: str) -> dict:
    """{kind: {"ms": a sample, "share": of it that copy-paste takes, "donors": pictures decoded a
    sample}}."""
    build(args.images, f"{scratch}/masks", Recipe("rbd", (), 128))
    images, cache = open_images(args.images), Cache(f"{scratch}/masks")
    rows, sets = cache.require(images.paths), {}
    for kind in KINDS:
        config = Config(
            args.images,
            "",
            masks="none" if kind == "none" else "rbd",
            size=args.size,
            background="grey" if kind == "none" else kind,
            textures=args.textures if kind == "texture" else None,
        )
        masks = None if kind == "none" else make_masks(config, cache, rows)
        sets[kind] = Pairs(
            images,
            Views.of(config),
            masks,
            2,
            make_donors(config, images, cache, rows),
            kind == "swap",
        )
    seconds, pasted = {kind: [] for kind in KINDS}, dict.fromkeys(KINDS, 0.0)
    for epoch in range(args.repeats):
        for kind, pairs in sets.items():
            began = time.process_time()
            for first in range(0, len(images), BATCH):
                batch = pairs.__getitems__(
                    [(epoch, i) for i in range(first, min(first + BATCH, len(images)))]
                )
                pasted[kind] += batch["parameters"][..., PASTED].sum().item()
            seconds[kind].append(time.process_time() - began)
    best = {kind: min(times) / len(images) for kind, times in seconds.items()}
    return {
        kind: {
            "ms": 1e3 * best[kind],
            "share": 1 - best["none"] / best[kind],
            "donors": 0.0
            if kind in ("none", "grey")
            else pasted[kind] / len(images) / args.repeats,
        }
        for kind in KINDS
    }


def reading(folder: str, out: str, repeats: int) -> dict:
    """{"images", "bytes", and images a second: "loose", "pack" (cold), "loose_warm",
    "pack_warm"}."""
    pack(folder, out, Settings(side=0))  # the same bytes
    loose, packed = open_images(folder), open_images(out)
    order = np.random.default_rng(0).permutation(len(loose))
    files = {
        "loose": [Path(folder, os.fsdecode(p)) for p in loose.paths.tolist()],
        "pack": list(Path(out).iterdir()),
    }
    best = dict.fromkeys(("loose", "pack", "loose_warm", "pack_warm"), 0.0)
    for _ in range(repeats):
        for name, images in (("loose", loose), ("pack", packed)):
            for label in (name, f"{name}_warm"):
                fresh = images.take(slice(None))  # no map from before
                if label == name:
                    forget(files[name])
                began = time.perf_counter()
                count = sum(len(fresh.read(int(row))) for row in order)
                best[label] = max(best[label], len(order) / (time.perf_counter() - began))
    return best | {"images": len(loose), "bytes": count}


def table(result: dict) -> str:
    lines = [
        "| background | ms a sample | share of copy-paste | target | donors decoded a sample |",
        "|---|--:|--:|--:|--:|",
    ]
    for kind, entry in result["samples"].items():
        target = f"≤ {TARGETS[kind]:.0%}" if kind in TARGETS else ""
        lines.append(
            f"| {kind} | {entry['ms']:.2f} | {entry['share']:.0%} | {target} | {entry['donors']:.2f} |"
        )
    lines += [
        "",
        "| images a second, one reader | loose files | pack | ratio | loose, warm | pack, warm |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, entry in result["reading"].items():
        lines.append(
            f"| {entry['images']} {name} of {entry['bytes'] / entry['images'] / 1e3:.0f} kB | "
            f"{entry['loose']:,.0f} | {entry['pack']:,.0f} | {entry['pack'] / entry['loose']:.1f} | "
            f"{entry['loose_warm']:,.0f} | {entry['pack_warm']:,.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
