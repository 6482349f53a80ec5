"""What benchmarks/train.py times: the loader by background, colours, steps, memory, packs."""

import multiprocessing
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from benchmarks.processes import timed
from benchmarks.scale import make_images
from data.cache.reader import Cache
from data.sources.images import list_images, open_images
from data.sources.pack import Settings, pack
from preprocess.pipeline import build
from preprocess.recipe import Recipe
from train.batch_norm import spread_batch_norm
from train.config import Config
from train.dataset import TrainingSet, open_training_set
from train.loader import Pairs, RawBatch, make_loader
from train.masks import Masks
from train.network import backbone, compile_networks
from train.optimise import make_optimizer
from train.photometric import photometric
from train.presets import configure

CPU = torch.device("cpu")
IMAGENET = 1_281_167
CHUNK = 10  # images timed together
WARM = 5  # steps on a GPU that are not timed: cudnn tries its kernels
BACKGROUNDS = ("grey", "texture", "image", "random", "swap")


def sources(root: str, masks: str, backgrounds: Iterable[str], **settings) -> dict[str, Pairs]:
    """A loader's data set for each background; `settings` as `configure` takes them."""
    data = {}
    textures = settings.pop("textures", None)
    for name in backgrounds:
        own = {"background": name, "textures": textures if name == "texture" else None}
        config = configure(images=root, out="", masks=masks, batch=8, **own, **settings)
        data[name] = Pairs(config, open_training_set(config))
    return data


def loader(
    root: str, folder: Path, limit: int, repeats: int, settings: dict
) -> dict[str, dict[str, float]]:
    """CPU and wall milliseconds a pair of each background, of `off` (the same views without
    copy-paste) and of the colours, interleaved; the median of the repetitions of every chunk of
    images, summed.

    Args:
        settings: `textures`, a folder, and `size` of the views.
    """
    masks = str(folder / "masks")
    build(root, masks, Recipe("rbd", (), 128))
    data = sources(root, masks, BACKGROUNDS, **settings)
    grey = data["grey"]
    data = {"off": replace(grey, data=replace(grey.data, masks=None)), **data}
    count = min(limit, len(grey.data.images)) // CHUNK * CHUNK
    took = defaultdict(lambda: defaultdict(list))  # name -> first image of a chunk -> seconds
    for pairs in data.values():  # read once
        colours(pairs.__getitems__([(0, 0), (0, 1)]))  # compiled
    for first in tqdm([*range(0, count, CHUNK)] * repeats, desc="loader", unit="chunk"):
        items = [(0, i) for i in range(first, first + CHUNK)]
        for name, pairs in data.items():
            took[name][first].append(timed(pairs.__getitems__, items))
        took["photometric"][first].append(timed(colours, grey.__getitems__(items)))
    numbers = {}
    for name, chunks in took.items():
        cpu, wall = 1e3 / count * sum(np.median(chunk, axis=0) for chunk in chunks.values())
        numbers[name] = {"cpu_ms": float(cpu), "wall_ms": float(wall)}
    return numbers


def colours(batch: RawBatch) -> None:
    for view in zip(batch["views"], batch["parameters"], strict=True):
        photometric(*view, CPU)


Step = Callable[[int], None]  # of a global step


def moco_step(config: Config, device: torch.device, mode: str = "default") -> Step:
    """A step of a configuration on random tensors, as the trainer makes it, with swap's negative
    where that is the background; `mode` is torch.compile's."""
    torch.manual_seed(0)
    method = config.method.make(config, 1000).to(device, memory_format=torch.channels_last).train()
    spread_batch_norm(method, config.network.splits, device)
    if config.runtime.compile:
        compile_networks(method, mode)
    first, second, negative = random_images(config, device, 3)
    if config.paste.background != "swap":
        negative = None
    index = torch.arange(config.optimiser.batch, device=device)
    optimizer = make_optimizer(config.optimiser, method)

    def loss(number: int) -> torch.Tensor:
        return method([first, second], number, index, negative)[0]

    return partial(make_step, optimizer, loss, device)


def supervised_step(config: Config, device: torch.device) -> Step:
    """A step of the same backbone that learns 1,000 classes of random tensors, compiled on a GPU:
    the least that a step of it costs."""
    torch.manual_seed(0)
    network = backbone(config.network.network).to(device, memory_format=torch.channels_last).train()
    if device.type == "cuda":
        network.compile()
    (images,) = random_images(config, device, 1)
    labels = torch.arange(len(images), device=device) % 1000
    optimizer = make_optimizer(config.optimiser, network)
    return partial(make_step, optimizer, lambda _: cross_entropy(network(images), labels), device)


def random_images(config: Config, device: torch.device, count: int) -> Iterable[torch.Tensor]:
    """`count` batches, channels last."""
    shape = config.optimiser.batch, 3, config.views.size, config.views.size
    batches = [torch.randn(shape, device=device) for _ in range(count)]
    return [x.contiguous(memory_format=torch.channels_last) for x in batches]


def make_step(
    optimizer: torch.optim.Optimizer,
    loss: Callable[[int], torch.Tensor],
    device: torch.device,
    number: int,
) -> None:
    """The part of a step that every network has."""
    torch.compiler.cudagraph_mark_step_begin()
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        value = loss(number)
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    optimizer.step()


def seconds(step: Step, device: torch.device, repeats: int) -> float:
    """Seconds of a step: on a CPU the median of CPU seconds; on a GPU the mean of wall seconds of
    steps that are queued without waiting; the trainer stays at most two ahead."""
    if device.type == "cpu":
        took = [timed(step, number)[0] for number in range(repeats + 1)]
        return statistics.median(took[1:])
    for count in (WARM, repeats):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for number in range(count):
            step(number)
        torch.cuda.synchronize()
    return (time.perf_counter() - began) / repeats


def steps(batch: int, repeats: int) -> dict[str, float]:
    """Seconds of a MoCo v2 step with ResNet-50 at 224 px on a CPU."""
    config = configure(images="", out="", masks="cache", batch=batch, splits=1)
    return {"batch": batch, "step_s": seconds(moco_step(config, CPU), CPU, repeats)}


def private_mb(pid: int) -> float:
    """Memory of a process that no other shares, in MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def memory(folder: Path, taken: int) -> dict[str, float]:
    """Private MB of two loader workers as they go through the first `taken` of 1,281,167 images in
    shuffled order.

    The list is 1,000 tiny images again and again: as long as ImageNet's in memory, without its
    files on disk.
    """
    make_images(folder / "tiny", 1000)
    build(str(folder / "tiny"), str(folder / "tiny-masks"), Recipe("centre", (), 32))
    images, cache = open_images(folder / "tiny"), Cache(folder / "tiny-masks")
    rows = np.arange(IMAGENET) % len(images)
    data = TrainingSet(images.take(rows), Masks(cache, cache.require(images.paths)[rows]))
    config = configure(images="", out="", size=32, epochs=1, workers=2, masks="cache")
    batches = iter(make_loader(config, data, 0, CPU))
    peaks = []
    steps = taken // config.optimiser.batch
    for step in range(steps):
        next(batches)
        if step in (steps // 10, steps - 1):
            workers = multiprocessing.active_children()
            peaks.append(max(private_mb(worker.pid) for worker in workers))
    read = steps * config.optimiser.batch
    ends = {"after_a_tenth_mb": peaks[0], "at_the_end_mb": peaks[1]}
    return {"paths": IMAGENET, "read": read, **ends}


def packs(root: str, folder: Path, repeats: int, side: int = 0) -> dict[str, float]:
    """Seconds (wall) from loose files and from a pack, after their pages were dropped.

    Args:
        side: 0: the same bytes, read in random order; else the pack's images are shrunk to it, and
            made into pairs of 224 px.
    """
    pack(root, str(folder), Settings(side=side))
    order = np.random.default_rng(0).permutation(len(list_images(root))).tolist()
    config = configure(images="", out="")
    took = []
    for _ in range(repeats):
        for name in (root, str(folder)):
            pairs = Pairs(config, TrainingSet(open_images(name)))
            forget(Path(name))
            took.append(timed(go_through, pairs, order, side > 0)[1])
    loose, packed = np.reshape(took, (repeats, 2)).T
    return {
        "images": len(order),
        "loose_s": float(np.median(loose)),
        "packed_s": float(np.median(packed)),
        "ratio": float(np.median(loose / packed)),
    }


def go_through(pairs: Pairs, order: list[int], views: bool) -> None:
    """Read images, and make views of them."""
    for row in order:
        if views:
            pairs.__getitems__([(0, row)])
        else:
            pairs.data.images.read(row)


def forget(folder: Path) -> None:
    """Drop the pages of a folder's files from the page cache; those of a map that is still open
    stay, and so do directory entries and inodes."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
