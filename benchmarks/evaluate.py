"""Whether feature extraction keeps up with the network: images a second beside those of the bare
forward.

    python -m benchmarks.evaluate --imagenet ../shared/data/imagenet_sample \\
        --imagenette ../shared/data/imagenette_128/val

Bare: the network alone on a batch that is normalised and on the device already, as often as there
    are batches.
Extracted: what every evaluation does with the same images: JPEG files decoded and cropped by
    workers while the network runs, normalised, features copied into an array; from the first
    worker's start to the last feature.
Both in turn in one run; the medians of the rounds count, the
ratio is the median of the rounds' ratios.

Two ratios, for a CPU is device and decoder at once. By the clock: the forward has one thread and
the workers the other cores, so this is what a user sees where no other program wants the cores. By
CPU time of the process that runs the
network: what extraction adds to the forward itself, whatever else the machine does; it says nothing
of workers that are too slow, for which there is the column of images that a worker decodes a
second.
"""

import tempfile
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
import tyro
from tqdm import tqdm

from benchmarks.processes import run_command, timed
from benchmarks.publish import PAGE, about, markdown, publish
from data.cli import require, run
from train.distributed import choose_device
from train.features import Labelled, batches, features, to_input
from train.knn import BANK, nearest
from train.network import backbone

TARGET = 0.95
# network, side in pixels, which images, how many a round: enough that starting the workers, 0.2 s,
# is not what is timed
CASES = (("resnet50", 224, "imagenet", 160), ("resnet18", 128, "imagenette", 800))
# ImageNet's validation images, a ResNet-50's features
QUERIES, DIMENSIONS, NEIGHBOURS = 50_000, 2048, 200


HEADS = (
    "network | images | bare, images/s | extracted, images/s | by the clock | by CPU time | "
    "a worker decodes, images/s"
)


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
    readme: str = PAGE
    """File whose bench-evaluate block is written, where it has one."""


def main() -> None:
    args = tyro.cli(Arguments, prog="python -m benchmarks.evaluate", description=__doc__)
    require(args, rounds=1, limit=1, batch=1, workers=1, queries=0)
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


def measure(network: str, size: int, folder: str, count: int, args: Arguments) -> dict:
    """{"count", "bare", "extracted": images/s, "ratio", "cpu_ratio", "decoded": images/s of one
    worker}, of `count` images spread over a labelled folder."""
    torch.manual_seed(0)
    device = choose_device(args.device)
    model = backbone(network, "imagenet")
    model.fc = torch.nn.Identity()
    model = model.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)
    images = Labelled(folder, size)
    count = min(count, len(images))
    chosen = np.linspace(0, len(images) - 1, count).astype(int).tolist()
    order = [chosen[first : first + args.batch] for first in range(0, count, args.batch)]
    inputs = to_input(images.__getitems__(order[0]), device)
    ready = [inputs[: len(rows)] for rows in order]

    def extract() -> None:
        loader = batches(images, args.workers, device, order=order)
        np.concatenate([*features(model, loader, device)])

    bare(model, ready[:1])  # memory, and the choice of algorithms
    rounds = []
    for _ in tqdm(range(args.rounds), desc=f"{network} at {size} px", leave=False):
        rounds.append((timed(bare, model, ready), timed(extract)))
    seconds = np.array(rounds)[..., ::-1]  # (rounds, bare or extracted, clock or CPU)
    ratio, cpu_ratio = np.median(seconds[:, 0] / seconds[:, 1], axis=0).tolist()
    bare_rate, extracted_rate = (count / np.median(seconds[:, :, 0], axis=0)).tolist()
    decoded = chosen[:100]
    return {
        "count": count,
        "bare": bare_rate,
        "extracted": extracted_rate,
        "ratio": ratio,
        "cpu_ratio": cpu_ratio,
        "decoded": len(decoded) / timed(images.__getitems__, decoded)[0],
        "seconds": seconds[:, :, 0].tolist(),
        "cpu_seconds": seconds[:, :, 1].tolist(),
    }


def bare(model: torch.nn.Module, ready: list[torch.Tensor]) -> None:
    """The network on inputs that lie on the device, in the precision that extraction uses."""
    device = ready[0].device.type
    with (
        torch.inference_mode(),
        torch.autocast(device, torch.bfloat16, enabled=device == "cuda"),
    ):
        for inputs in ready:
            model(inputs)
    if device == "cuda":
        torch.cuda.synchronize()


def knn_memory(queries: int, rows: int = BANK) -> float:
    """The most memory, in GB, of a process that finds the neighbours of so many images among two
    blocks (of `rows`) of the bank, a float16 file; more blocks take turns in the same memory."""
    code = f"from benchmarks.evaluate import find_neighbours; find_neighbours({queries}, {rows})"
    return run_command("-c", code).driver_mb * 2**20 / 1e9


def find_neighbours(queries: int, rows: int) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryFile() as file:
        bank = np.memmap(file, np.float16, "w+", shape=(2 * rows, DIMENSIONS))
        for first in range(0, len(bank), 4096):
            part = bank[first : first + 4096]
            part[:] = np.random.default_rng(first).normal(size=part.shape)
        queried = np.random.default_rng(1).random((queries, DIMENSIONS), np.float32)
        nearest(bank, queried, NEIGHBOURS, rows=rows)


def table(result: dict) -> str:
    """The result as Markdown."""
    rows = [
        f"{row['network']}, {row['size']} px | {row['count']} of {row['images']} | "
        f"{row['bare']:.1f} | {row['extracted']:.1f} | {100 * row['ratio']:.1f} % | "
        f"{100 * row['cpu_ratio']:.1f} % | {row['decoded']:.0f}"
        for row in result["rows"]
    ]
    text = (
        f"{markdown(HEADS, rows, 5)}\n\n{result['device']} ({result['machine']}), one thread for "
        f"the forward and {result['workers']} worker{'s' if result['workers'] > 1 else ''} for "
        f"decoding, batches of {result['batch']}, medians of {result['rounds']} rounds; the target "
        f"is {100 * TARGET:.0f} %."
    )
    if "knn" in result:
        knn = result["knn"]
        text += (
            f" kNN of {knn['queries']:,} queries with {knn['dimensions']:,} features and "
            f"k = {knn['k']}, the bank in a file: {knn['peak_gb']:.1f} GB of memory at most."
        )
    return text


if __name__ == "__main__":
    run(main)
