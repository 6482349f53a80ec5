"""What benchmarks/train.py times: the loader by background, torchvision's transforms, colours,
steps, memory, packs."""

from __future__ import annotations

import io
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision import transforms

from benchmarks.pages import forget
from data.cache.reader import Cache
from data.sources.images import Images, open_images
from data.sources.pack import Settings, pack
from preprocess.pipeline import build
from preprocess.recipe import Recipe
from train import backgrounds
from train.batch_norm import spread_batch_norm
from train.colours import MEAN, STD
from train.config import Config
from train.loader import Pairs, make_loader
from train.masks import Masks, make_masks
from train.methods import make_method
from train.network import compile_networks
from train.optimise import make_optimizer
from train.photometric import photometric
from train.views import Views

CPU = torch.device("cpu")
IMAGENET = 1_281_167
CHUNK = 10  # images timed together
WARM = 5  # steps on a GPU that are not timed: cudnn tries its kernels


def moco_v2_transform() -> Callable:
    """The baseline: one view by torchvision's transforms on Pillow images, MoCo v2's settings (Chen
    et al. 2020).

    The blur is Pillow's, as MoCo v2's: torchvision's own goes through a tensor and would double the
    baseline's time.
    """
    jitter = transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
    blur = transforms.RandomApply(
        [lambda picture: picture.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))], p=0.5
    )
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(224, (0.2, 1.0)),
            jitter,
            transforms.RandomGrayscale(0.2),
            blur,
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )


def sources(images: Images, cache: Cache, textures: str) -> dict[str, Pairs]:
    """A loader's data set for each background, and `off`: the same views without copy-paste."""
    rows, made = cache.require(images.paths), {}
    for name in ("off", "grey", "texture", "image", "random", "swap"):
        config = Config(
            images="",
            out="",
            masks="cache",
            background="grey" if name == "off" else name,
            textures=textures if name == "texture" else None,
        )
        donors = backgrounds.make_donors(config, images, cache, rows)
        made[name] = Pairs(
            images,
            Views.of(config),
            None if name == "off" else make_masks(config, cache, rows),
            2,
            donors,
            name == "swap",
        )
    return made


def loader(images: Images, cache: Cache, textures: str, repeats: int, step: Callable) -> dict:
    """CPU and wall milliseconds a pair of each background, the baseline and the colours,
    interleaved; the median of the repetitions of every chunk of images, summed."""
    made, view = sources(images, cache, textures), moco_v2_transform()
    names = [*made, "torchvision", "photometric"]
    took = {name: {} for name in names}
    decoding = [0.0, 0]
    plain = backgrounds._decode_under

    def timed_decode(*args):
        began = time.process_time()
        try:
            return plain(*args)
        finally:
            decoding[0] += time.process_time() - began
            decoding[1] += 1

    for pairs in (*made.values(), made["grey"]):  # compiled, and read once
        batch = pairs.__getitems__([(0, 0), (0, 1)])
    photometric(batch["views"][0], batch["parameters"][0], CPU)
    for repeat in range(repeats):
        for first in range(0, len(images) // CHUNK * CHUNK, CHUNK):
            items = [(0, i) for i in range(first, first + CHUNK)]
            for name, pairs in made.items():
                if name == "swap":
                    backgrounds._decode_under = timed_decode
                timed(took[name], first, lambda pairs=pairs, items=items: pairs.__getitems__(items))
                backgrounds._decode_under = plain
            batch = made["grey"].__getitems__(items)
            timed(
                took["photometric"],
                first,
                lambda batch=batch: [
                    photometric(*both, CPU)
                    for both in zip(batch["views"], batch["parameters"], strict=True)
                ],
            )
            contents = [images.read(i) for _, i in items]
            timed(
                took["torchvision"],
                first,
                lambda contents=contents: [
                    (view(picture), view(picture))
                    for picture in (
                        Image.open(io.BytesIO(content)).convert("RGB") for content in contents
                    )
                ],
            )
        step(repeat)
    count = len(images) // CHUNK * CHUNK
    result = {
        name: {
            kind: 1e3
            * sum(statistics.median(t[i] for t in chunk) for chunk in chunks.values())
            / count
            for i, kind in enumerate(("cpu_ms", "wall_ms"))
        }
        for name, chunks in took.items()
    }
    result["donors_decoding_ms"] = 1e3 * decoding[0] / (repeats * count)
    return result


def timed(took: dict, key: int, function: Callable) -> None:
    """Append (CPU, wall) seconds of a call to `took[key]`."""
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    took.setdefault(key, []).append((time.process_time() - cpu, time.perf_counter() - wall))


def steps(
    batch: int, repeats: int, device: torch.device, splits: int = 1, compiled: bool = False
) -> dict:
    """Seconds of a MoCo v2 step with ResNet-50 at 224 px, without and with swap's negative.

    On a CPU the median of CPU seconds; on a GPU the mean of wall seconds of steps that are queued
    without waiting, as the trainer queues them.
    """
    config = Config(images="", out="", batch=batch, splits=splits)
    torch.manual_seed(0)
    method = make_method(config, 1000).to(device, memory_format=torch.channels_last).train()
    spread_batch_norm(method, splits, device)
    if compiled:
        compile_networks(method)
    optimizer = make_optimizer(config, method)
    views = [
        torch.randn(batch, 3, 224, 224, device=device).contiguous(memory_format=torch.channels_last)
        for _ in range(3)
    ]
    index, took = torch.arange(batch, device=device), {False: [], True: []}

    def step(number: int, extra: bool) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss, _ = method(views[:2], number, index, views[2] if extra else None)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    if device.type == "cuda":
        for extra, times in took.items():
            for count in (WARM, repeats):
                torch.cuda.synchronize()
                began = time.perf_counter()
                for number in range(count):
                    step(number, extra)
                torch.cuda.synchronize()
            times.append((time.perf_counter() - began) / repeats)
    else:
        for number in range(repeats + 1):
            for extra, times in took.items():
                began = time.process_time()
                step(number, extra)
                if number:  # the first allocates
                    times.append(time.process_time() - began)
    return {
        "batch": batch,
        "step_s": statistics.median(took[False]),
        "with_negative_s": statistics.median(took[True]),
    }


def private_mb(pid: int) -> float:
    """Memory of a process that no other shares, in MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def memory(folder: Path, taken: int) -> dict:
    """Private MB of two loader workers as they go through the first `taken` of 1,281,167 images in
    shuffled order.

    The list is 1,000 tiny images again and again: as long as ImageNet's in memory, without its
    files on disk.
    """
    (folder / "tiny").mkdir()
    rng = np.random.default_rng(0)
    for i in range(1000):
        cv2.imwrite(
            str(folder / "tiny" / f"n00000000_{i:08d}.png"),
            rng.integers(0, 255, (24, 24, 3)).astype(np.uint8),
        )
    build(str(folder / "tiny"), str(folder / "tiny-masks"), Recipe("centre", (), 32))
    few, cache = open_images(folder / "tiny"), Cache(folder / "tiny-masks")
    which = np.arange(IMAGENET) % len(few)
    images, masks = few.take(which), Masks(cache, cache.require(few.paths)[which])
    config = Config(images="", out="", size=32, batch=256, epochs=1, workers=2, masks="cache")
    batches = iter(make_loader(config, images, masks, 0, pin_memory=False))
    workers, seen = [w.pid for w in batches._workers], []
    steps = taken // config.batch
    for step in range(steps):
        next(batches)
        if step in (steps // 10, steps - 1):
            seen.append(max(private_mb(pid) for pid in workers))
    batches._shutdown_workers()
    return {
        "paths": IMAGENET,
        "read": steps * config.batch,
        "after_a_tenth_mb": seen[0],
        "at_the_end_mb": seen[1],
    }


def packs(root: str, folder: Path, repeats: int, side: int, views: bool) -> dict:
    """Images a second (wall) from loose files and from a pack, after their pages were dropped: read
    in random order and, with `views`, made into pairs of 224 px."""
    pack(root, str(folder), Settings(side=side))
    loose, packed = open_images(root), open_images(folder)
    files = {
        "loose": [Path(root) / os.fsdecode(p) for p in loose.paths.tolist()],
        "packed": sorted(folder.iterdir()),
    }
    order = np.random.default_rng(0).permutation(len(loose)).tolist()
    took = {"loose": [], "packed": []}
    for _ in range(repeats):
        for name, images in (("loose", open_images(root)), ("packed", open_images(folder))):
            forget([f for f in files[name] if f.is_file()])
            pairs = Pairs(images, Views.of(Config(images="", out="")), None)
            began = time.perf_counter()
            for row in order:
                if views:
                    pairs.__getitems__([(0, row)])
                else:
                    images.read(row)
            took[name].append(time.perf_counter() - began)
    del packed
    return {
        "images": len(order),
        **{f"{name}_s": statistics.median(t) for name, t in took.items()},
        "ratio": statistics.median(
            a / b for a, b in zip(took["loose"], took["packed"], strict=True)
        ),
    }
