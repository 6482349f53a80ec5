"""Whether feature extraction keeps up with the network: images a second beside those of the bare
forward.

    python -m benchmarks.evaluate --imagenet ../shared/data/imagenet_sample \\
        --imagenette ../shared/data/imagenette_128/val

Bare: the network alone on a batch that is normalised and on the device already, as often as there
    are batches.
Extracted: what evaluate.features.extract_from does with the same images: JPEG files decoded and
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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from tqdm import tqdm

from benchmarks.publish import about, publish
from data.cli import UsageError, run
from evaluate.features import Encoder, Labelled, extract_from, to_input
from train.distributed import choose_device
from train.knn import BANK, nearest
from train.network import backbone

TARGET = 0.95
# network, side in pixels, which images, how many a round: enough that starting the workers, 0.2 s,
# is not what is timed
CASES = (("resnet50", 224, "imagenet", 160), ("resnet18", 128, "imagenette", 800))
QUERIES, DIMENSIONS, NEIGHBOURS = (
    50_000,
    2048,
    200,
)  # ImageNet's validation images, a ResNet-50's features


@dataclass(frozen=True)
class Arguments:
    """Time feature extraction against the bare forward, and measure the memory of kNN at ImageNet's
    size."""

    imagenet: str
    """Folder of ImageNet images at their own sizes, CLASS/image."""
    imagenette: str
    """Folder of small images, CLASS/image."""
    json: str = "runs/bench/evaluate.json"
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
    device = choose_device(args.device)
    folders = {"imagenet": args.imagenet, "imagenette": args.imagenette}
    rows = [
        {
            "network": network,
            "size": size,
            "images": images,
            **measure(
                network, size, folders[images], min(count, args.limit or count), device, args
            ),
        }
        for network, size, images, count in CASES
    ]
    result = {
        "device": str(device),
        **about(),
        "batch": args.batch,
        "workers": args.workers,
        "rounds": args.rounds,
        "rows": rows,
    }
    if args.queries:
        result["knn"] = {
            "queries": args.queries,
            "dimensions": DIMENSIONS,
            "k": NEIGHBOURS,
            "peak_gb": knn_memory(args.queries),
        }
    publish(result, table(result), args.json, args.readme, "bench-evaluate")
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


def measure(
    network: str, size: int, folder: str, count: int, device: torch.device, args: Arguments
) -> dict:
    """{"count", "bare", "extracted": images/s, "ratio", "cpu_ratio", "decoded": images/s of one
    worker}."""
    torch.manual_seed(0)
    model = backbone(network, "imagenet")
    model.fc = torch.nn.Identity()
    model = model.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)
    encoder, images = Encoder(model, size, device), Some(folder, size, count)
    crops = images.__getitems__(list(range(min(args.batch, len(images)))))
    inputs = to_input(crops, device)
    batches = [
        inputs[:n]
        for n in [args.batch] * (len(images) // args.batch) + [len(images) % args.batch]
        if n
    ]
    bare(encoder, batches[:1])  # memory, and the choice of algorithms
    rounds = []
    for _ in tqdm(range(args.rounds), desc=f"{network} at {size} px", unit="round", leave=False):
        rounds.append(
            (
                timed(lambda: bare(encoder, batches)),
                timed(lambda: extract_from(encoder, images, args.batch, args.workers)),
            )
        )
    start = time.process_time()
    for i in range(min(100, len(images))):
        images[i]
    decoding = (time.process_time() - start) / min(100, len(images))
    wall = np.array([[a[0], b[0]] for a, b in rounds])
    used = np.array([[a[1], b[1]] for a, b in rounds])
    return {
        "count": len(images),
        "bare": len(images) / float(np.median(wall[:, 0])),
        "extracted": len(images) / float(np.median(wall[:, 1])),
        "ratio": float(np.median(wall[:, 0] / wall[:, 1])),
        "cpu_ratio": float(np.median(used[:, 0] / used[:, 1])),
        "decoded": 1 / decoding,
        "seconds": wall.tolist(),
        "cpu_seconds": used.tolist(),
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


def timed(function) -> tuple[float, float]:
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
        wanted = np.random.default_rng(1).random((queries, DIMENSIONS), np.float32)
        nearest(bank, wanted, NEIGHBOURS, rows=rows)
    # not ru_maxrss: that remembers the process that started this one
    told = Path("/proc/self/status").read_text()
    print(int(told.split("VmHWM:")[1].split()[0]) * 1024 / 1e9)


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
