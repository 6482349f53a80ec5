"""Our loader beside NVIDIA DALI, lightly and torchvision: CPU time of a pair of views from the same
files, on one core.

    python -m benchmarks.peers         # `make bench-peers`, which makes .venv-peers first

Every round runs ours and then each peer, in an interpreter of its own that imports nothing of this
project (benchmarks/peer.py); the medians of the rounds are compared, same outputs with same
outputs. A peer that fails is a row that says so.
"""

import data.one_thread  # noqa: F401 - before numpy is imported

# isort: split
import json
import os
import statistics
import subprocess
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch
import tyro
from tqdm import tqdm

from benchmarks import peer
from benchmarks.processes import timed
from benchmarks.publish import PAGE, about, markdown, publish
from benchmarks.train_parts import colours, sources
from data.cli import UsageError, describe, require, run
from data.sources.images import list_images
from preprocess.pipeline import build
from preprocess.recipe import Recipe
from train.loader import Pairs

PLAIN, COLOURED = "pairs", "pairs with colours, normalised"
PASTING = "copy-paste"
# outputs, by whom, its name for peer.py ("" is ours, which comes first), target, what it leaves out
ROWS = (
    (PLAIN, "ours", "", "", ""),
    (PLAIN, "DALI, one decode and two crops of it", "DALI geometry", "≥ 1.9 ×", PASTING),
    (PLAIN, "DALI, two decodes of a region", "DALI regions", "≥ 1.9 ×", PASTING),
    (PLAIN, "Pillow and torchvision", "torchvision geometry", "", PASTING),
    (PLAIN, "lightly", "lightly geometry", "", PASTING),
    (COLOURED, "ours", "", "", ""),
    (COLOURED, "DALI", "DALI colours", "≥ 1.9 ×", "copy-paste, the jitter's random order"),
    (COLOURED, "Pillow and torchvision", "torchvision colours", "≥ 4 ×", PASTING),
    (COLOURED, "lightly, `MoCoV2Transform`", "lightly colours", "≥ 4 ×", PASTING),
)
NAMES = ("outputs", "by", "peer", "target", "leaves_out")


@dataclass(frozen=True)
class Arguments:
    """Time pairs of views of this project and of others."""

    images: str = "../shared/data/imagenet_sample"
    """Folder of photographs at their own size."""
    python: str = ".venv-peers/bin/python"
    """Interpreter that has the peers."""
    json: str = "runs/bench/peers.json"
    """File for the numbers."""
    limit: int = 250
    """Photographs, a multiple of 10."""
    size: int = 224
    """Side of a view, in pixels."""
    repeats: int = 5
    """Rounds; the medians count."""
    readme: str = PAGE
    """Page whose bench-peers block is written, where it has one."""


def main() -> None:
    args = tyro.cli(Arguments, prog="python -m benchmarks.peers", description=__doc__)
    require(args, limit=peer.BATCH, size=1, repeats=1)
    count = min(args.limit, len(list_images(args.images))) // peer.BATCH * peer.BATCH
    if not count:
        raise UsageError(f"{args.images}: fewer than {peer.BATCH} images")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # which the peers inherit
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(args, count, Path(scratch))
    result = {**about(), "images": count, "size": args.size, "repeats": args.repeats, "rows": rows}
    publish(result, table(result), args.json, args.readme, "bench-peers")


def measure(args: Arguments, count: int, folder: Path) -> list[dict]:
    """ROWS by NAMES, with "cpu_ms", "ratio" to ours and "versions", or with "error"."""
    masks, files = str(folder / "masks"), folder / "list.txt"
    build(args.images, masks, Recipe("rbd", (), 128))
    pairs = sources(args.images, masks, ["grey"], size=args.size)["grey"]
    root = os.fsencode(os.path.abspath(args.images))
    names = list_images(args.images)[:count].tolist()
    files.write_bytes(b"\n".join(os.path.join(root, name) for name in names))
    ours(pairs, peer.BATCH)  # compiled
    took, results = defaultdict(list), {}
    for _ in tqdm(range(args.repeats), desc="peers", unit="round"):
        own = ours(pairs, count)
        for row in ROWS:
            if "error" in results.get(row, {}):
                continue
            results[row] = theirs(args, files, row[2]) if row[2] else {"cpu_ms": own[row[0]]}
            took[row].append(results[row].get("cpu_ms"))
    rows, base = [], {}
    for row, result in results.items():
        result |= dict(zip(NAMES, row, strict=True))
        if "error" not in result:
            result["cpu_ms"] = statistics.median(took[row])
            base.setdefault(row[0], result["cpu_ms"])
            result["ratio"] = result["cpu_ms"] / base[row[0]]
        rows.append(result)
    return rows


def ours(pairs: Pairs, count: int) -> dict[str, float]:
    """{outputs: CPU milliseconds} of this project, of the first `count` images."""
    seconds = dict.fromkeys((PLAIN, COLOURED), 0.0)
    for first in range(0, count, peer.BATCH):
        items = [(0, row) for row in range(first, first + peer.BATCH)]
        geometry = timed(pairs.__getitems__, items)[0]
        seconds[PLAIN] += geometry
        seconds[COLOURED] += geometry + timed(colours, pairs.__getitems__(items))[0]
    return {outputs: 1e3 * s / count for outputs, s in seconds.items()}


def theirs(args: Arguments, files: Path, name: str) -> dict:
    """What peer.py prints, or {"error"}."""
    command = [args.python, "-P", peer.__file__, str(files), name, str(args.size)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    except OSError as error:
        return {"error": describe(error)}
    if done.returncode:
        return {"error": (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def table(result: dict) -> str:
    """The result as Markdown, with the versions."""
    rows, versions = [], {"opencv": cv2.__version__}
    for row in result["rows"]:
        measured = f"not run: {row.get('error', '').replace('|', '/')} | "
        if "ratio" in row:
            measured = f"{row['cpu_ms']:.2f} | {row['ratio']:.2f} ×"
            versions |= row.get("versions", {})
        rows.append(
            f"{row['outputs']} | {row['by']} | {measured} | {row['target']} | {row['leaves_out']}"
        )
    return (
        markdown("outputs | by | CPU ms | of ours | target | leaves out", rows)
        + "\n\nCPU milliseconds of one core, a pair of views of "
        f"{result['size']} px; {result['images']} photographs of ImageNet, each way in turn, "
        f"medians of {result['repeats']} rounds; {result['date']}, {result['machine']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + "."
    )


if __name__ == "__main__":
    run(main)
