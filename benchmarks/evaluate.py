"""Whether feature extraction keeps up with the network: images a second beside those of the bare
forward.

    python -m benchmarks.evaluate --imagenet ../shared/data/imagenet_sample \\
        --imagenette ../shared/data/imagenette_128/val

Bare: the network alone on a batch that is normalised and on the device already, as often as there
    are batches.
Extracted: what evaluate.features.extract does with the same images: JPEG files decoded and
cropped by workers while the network runs, normalised, features copied into an array; from the first
worker's start to the last feature. Both in turn in one run; the medians of the rounds count, the
ratio is the median of the rounds' ratios.

Two ratios, for a CPU is device and decoder at once. By the clock: the forward has one thread and
the workers the other cores, so this is what a user sees where no other program wants the cores. By
CPU time of the process that runs the
network: what extraction adds to the forward itself, whatever else the machine does; it says nothing
of workers that are too slow, for which there is the column of images that a worker decodes a
second.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from tqdm import tqdm

from benchmarks.publish import about, publish
from data.cli import UsageError, run
from evaluate.features import Encoder, extract
from train.distributed import choose_device
from train.features import Labelled, to_input
from train.knn import BANK, nearest
from train.network import backbone

TARGET = 0.95
# network, side in pixels, which images, how many a round: enough that starting the workers, 0.2 s,
# is not what is timed
CASES = (("resnet50", 224, "imagenet", 160), ("resnet18", 128, "imagenette", 800))
# ImageNet's validation images, a ResNet-50's features
QUERIES, DIMENSIONS, NEIGHBOURS = 50_000, 2048, 200


@dataclass(frozen=True)
class Arguments:
    """Time feature extraction against the bare forward, and measure the memory of kNN at ImageNet's
    size."""

    imagenet: str
    """Folder of ImageNet images at their own sizes, CLASS/image."""
    imagenette: str
    """Folder of small images, CLASS/image."""
    json_file: Annotated[str, tyro.conf.arg(name="json")] = "runs/bench/evaluate.json"
    """File for the numbers."""
    rounds: int = 5
    """Times that both are done in turn."""
    limit: int | None = None
    """Images a round at most (default: 160 at 224 px, 800 at 128 px)."""
    batch: int = 16
    """Images a batch."""
    workers: int = 1
    """Processes that decode."""
    device: str = "auto"
    """cuda, cpu, or auto."""
    queries: int = QUERIES
    """Queries of the kNN whose memory is measured; 0 leaves it out (it takes minutes)."""
    readme: str = "docs/benchmarks.md"
    """File whose bench-evaluate block is written, where it has one."""


def main() -> int:
    args = tyro.cli(Arguments, prog="python -m benchmarks.evaluate", description=__doc__)
    if min(args.rounds, args.limit or 1, args.batch, args.workers) < 1 or args.queries < 0:
        raise UsageError(
            "--rounds, --limit, --batch and --workers must be at least 1, --queries not negative"
        )
    torch.set_num_threads(1)  # on a CPU the other cores are the workers'
    folders = {"imagenet": args.imagenet, "imagenette": args.imagenette}
    rows = []
    for network, size, images, count in CASES:
        numbers = measure(network, size, folders[images], min(count, args.limit or count), args)
        rows.append({"network": network, "size": size, "images": images, **numbers})
    result = {
        "device": str(choose_device(args.device)),
        **about(),
        "batch": args.batch,
        "workers": args.workers,
        "rounds": args.rounds,
        "rows": rows,
    }
    if args.queries:
        peak = knn_memory(args.queries)
        sizes = {"queries": args.queries, "dimensions": DIMENSIONS, "k": NEIGHBOURS}
        result["knn"] = {**sizes, "peak_gb": peak}
    publish(result, table(result), args.json_file, args.readme, "bench-evaluate")
    return 0


class Some(Labelled):
    """The first `count` images of a spread over a labelled folder."""

    def __init__(self, root: str, size: int, count: int):
        super().__init__(root, size)
        self.rows = np.linspace(0, super().__len__() - 1, min(count, super().__len__())).astype(int)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, i: int) -> np.ndarray:
        return super().read(int(self.rows[i]))


def measure(network: str, size: int, folder: str, count: int, args: Arguments) -> dict:
    """{"count", "bare", "extracted": images/s, "ratio", "cpu_ratio", "decoded": images/s of one
    worker}."""
    torch.manual_seed(0)
    device = choose_device(args.device)
    model = backbone(network, "imagenet")
    model.fc = torch.nn.Identity()
    model = model.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)
    encoder, images = Encoder(model, size, device), Some(folder, size, count)
    count = len(images)
    inputs = to_input(images.__getitems__(list(range(min(args.batch, count)))), device)
    sizes = np.diff([*range(0, count, args.batch), count])
    batches = [inputs[:n] for n in sizes]
    bare(encoder, batches[:1])  # memory, and the choice of algorithms
    rounds = [
        (
            timed(lambda: bare(encoder, batches)),
            timed(lambda: extract(encoder, images, args.batch, args.workers)),
        )
        for _ in tqdm(range(args.rounds), desc=f"{network} at {size} px", leave=False)
    ]
    decoded = range(min(100, count))
    _, decoding = timed(lambda: [images[i] for i in decoded])
    seconds = np.array(rounds)  # (rounds, bare or extracted, clock or CPU)
    ratio, cpu_ratio = np.median(seconds[:, 0] / seconds[:, 1], axis=0)
    bare_rate, extracted_rate = count / np.median(seconds[:, :, 0], axis=0)
    return {
        "count": count,
        "bare": float(bare_rate),
        "extracted": float(extracted_rate),
        "ratio": float(ratio),
        "cpu_ratio": float(cpu_ratio),
        "decoded": len(decoded) / decoding,
        "seconds": seconds[:, :, 0].tolist(),
        "cpu_seconds": seconds[:, :, 1].tolist(),
    }


def bare(encoder: Encoder, batches: list[torch.Tensor]) -> None:
    """The network on inputs that lie on the device, in the precision that extraction uses."""
    with (
        torch.inference_mode(),
        torch.autocast(encoder.device.type, torch.bfloat16, enabled=encoder.device.type == "cuda"),
    ):
        for inputs in batches:
            encoder.model(inputs)
    if encoder.device.type == "cuda":
        torch.cuda.synchronize()


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of CPU time of this process (not of the workers)."""
    clock, used = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - clock, time.process_time() - used


def knn_memory(queries: int, rows: int = BANK) -> float:
    """The most memory, in GB, of a process that finds the neighbours of so many images among two
    blocks (of `rows`) of the bank, a float16 file; more blocks take turns in the same memory."""
    code = f"from benchmarks.evaluate import find_neighbours; find_neighbours({queries}, {rows})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def find_neighbours(queries: int, rows: int) -> None:
    """Prints this process's peak memory in GB."""
    torch.set_num_threads(1)
    with tempfile.TemporaryFile() as file:
        bank = np.memmap(file, np.float16, "w+", shape=(2 * rows, DIMENSIONS))
        for first in range(0, len(bank), 4096):
            part = bank[first : first + 4096]
            part[:] = np.random.default_rng(first).normal(size=part.shape)
        features = np.random.default_rng(1).random((queries, DIMENSIONS), np.float32)
        nearest(bank, features, NEIGHBOURS, rows=rows)
    # not ru_maxrss: that remembers the process that started this one
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9)


def table(result: dict) -> str:
    """The result as Markdown."""
    lines = [
        "| network | images | bare, images/s | extracted, images/s | by the clock | by CPU time "
        "| a worker decodes, images/s |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in result["rows"]:
        lines.append(
            f"| {row['network']}, {row['size']} px | {row['count']} of {row['images']} | "
            f"{row['bare']:.1f} | {row['extracted']:.1f} | {100 * row['ratio']:.1f} % | "
            f"{100 * row['cpu_ratio']:.1f} % | {row['decoded']:.0f} |"
        )
    lines += [
        "",
        f"{result['device']} ({result['machine']}), one thread for the forward and "
        f"{result['workers']} worker{'s' if result['workers'] > 1 else ''} for decoding, "
        f"batches of {result['batch']}, medians of {result['rounds']} rounds; the target is "
        f"{100 * TARGET:.0f} %.",
    ]
    if "knn" in result:
        knn = result["knn"]
        lines[-1] += (
            f" kNN of {knn['queries']:,} queries with {knn['dimensions']:,} features and "
            f"k = {knn['k']}, the bank in a file: {knn['peak_gb']:.1f} GB of memory at most."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
