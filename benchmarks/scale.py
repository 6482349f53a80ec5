"""How the batch stage grows: 10^3, 10^4 and 10^5 images, a fitted line, and what 1.28 million would
take.

    python -m benchmarks.scale                      # `make bench-scale`: a few minutes, JSON in
    runs/bench/scale.json

Tiny PNGs and the `centre` estimator, so that what is measured is the engine; the time of a real
estimator comes from real images (--sample), where there are any. Every run is a process of its own,
so that peaks of memory are its own.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro

from benchmarks.growth import IMAGENET, fit, table
from benchmarks.publish import about, publish
from benchmarks.sparse import sparse_cache
from data.cache.reader import Cache
from data.cli import UsageError, run
from data.sources.images import list_images, open_images
from preprocess.recipe import Recipe, compute_block

SIDE = 128
SHARD = 1000  # as many as the smallest set has: the driver's memory is a few times a shard


@dataclass(frozen=True)
class Arguments:
    """Measure time, memory and bytes against the number of images."""

    out: str = "runs/bench"
    """Folder for scale.json and the working files (removed at the end)."""
    counts: tuple[int, ...] = (1_000, 10_000, 100_000)
    """Numbers of images."""
    sample: str = "../shared/data/imagenet_sample"
    """Real images, for the time of a real estimator; skipped where there is no such folder."""
    estimator: str = "auto"
    """That estimator."""
    readme: str = "docs/benchmarks.md"
    """File whose block between the bench-scale markers is filled in, where it has one."""


def make_images(root: Path, count: int) -> None:
    """`count` different 24x24 PNGs in folders of 1,000."""
    rng = np.random.default_rng(0)
    for i in range(count):
        folder = root / f"{i // 1000:04d}"
        if i % 1000 == 0:
            folder.mkdir(parents=True, exist_ok=True)
        content = cv2.imencode(".png", rng.integers(0, 255, (24, 24, 3), dtype=np.uint8))[1]
        (folder / f"{i:07d}.png").write_bytes(content.tobytes())


def timed(root: Path, cache: Path, workers: int, *options: str) -> dict[str, float]:
    """One `python -m preprocess`: seconds, CPU seconds of the driver, peak memory (resident MB) of
    it and workers."""
    command = [
        sys.executable,
        "-m",
        "preprocess",
        str(root),
        str(cache),
        "--side",
        str(SIDE),
        "--workers",
        str(workers),
        *options,
    ]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peaks: dict[int, float] = {}
    scheduled: dict[int, tuple[float, float]] = {}
    while process.poll() is None:
        for pid in (process.pid, *_descendants(process.pid)):
            peaks[pid] = max(peaks.get(pid, 0.0), _peak(pid))
            scheduled[pid] = max(scheduled.get(pid, (0.0, 0.0)), _scheduled(pid))
        time.sleep(0.1)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise UsageError(f"{' '.join(command)} failed: {process.stderr.read().decode()[-500:]}")
    driver, (busy, _) = peaks.pop(process.pid, 0.0), scheduled.pop(process.pid, (0.0, 0.0))
    waited = [
        wait for ran, wait in scheduled.values() if ran > 0.3 * max(scheduled.values())[0]
    ]  # workers, no helpers
    return {
        "seconds": seconds,
        "driver_seconds": busy,
        "driver_mb": driver,
        "waited": sum(waited) / max(1, len(waited)),
        "worker_mb": max(peaks.values(), default=0.0),
    }


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        found += children + [pid for child in children for pid in _descendants(child)]
    return found


def _peak(pid: int) -> float:
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(match[1]) / 1024 if match else 0.0


def _scheduled(pid: int) -> tuple[float, float]:
    """Seconds that a process ran, and that it could have run but other processes had the cores; all
    its threads."""
    ran = waited = 0.0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            fields = task.read_text().split()
        except OSError:
            continue
        ran, waited = ran + int(fields[0]) / 1e9, waited + int(fields[1]) / 1e9
    return ran, waited


def read_speed(cache: Cache, reads: int = 200_000) -> float:
    """Random masks a second on one core, each copied, from a warm cache."""
    rows = np.random.default_rng(0).integers(0, len(cache), reads).tolist()
    target = np.empty((cache.side, cache.side), np.uint8)
    for row in rows:
        target[...] = cache.mask(row)
    start = time.perf_counter()
    for row in rows:
        target[...] = cache.mask(row)
    return reads / (time.perf_counter() - start)


def overhead(root: Path, folder: Path) -> dict[str, float]:
    """Milliseconds an image that are neither decoding nor the estimator: a run in one process, less
    those two."""
    images = open_images(root).take(slice(4096))
    recipe = Recipe("centre", (), SIDE)
    compute_block(images.take(slice(64)), recipe)  # imports and first calls
    spent = _inner_seconds(images, recipe)
    (folder / "list.txt").write_bytes(b"\n".join(images.paths.tolist()))
    from preprocess.build import build

    start = time.perf_counter()
    build(str(root), str(folder / "overhead"), recipe, listed=str(folder / "list.txt"))
    whole = time.perf_counter() - start
    return {
        "whole_ms": 1e3 * whole / len(images),
        "inner_ms": 1e3 * spent / len(images),
        "overhead_ms": 1e3 * (whole - spent) / len(images),
    }


def _inner_seconds(images, recipe: Recipe) -> float:
    from data.resize import resize
    from data.sources.images import decode

    estimator = recipe.load()
    start = time.perf_counter()
    for i in range(len(images)):
        resize(estimator.working(decode(images.read(i))), SIDE, SIDE)
    return time.perf_counter() - start


def two_workers(sample: Path, folder: Path, estimator: str) -> dict[str, float]:
    """Images a second of one and of two workers on real images: from what a longer run takes more
    than a shorter one, so that starting and ending do not count. `free_*` leave out the time that
    workers waited for a core which other
    programs held: what an idle machine would show."""
    roots = {}
    for copies in (4, 16):
        roots[copies] = folder / f"sample-{copies}"
        roots[copies].mkdir()
        for copy in range(copies):
            os.symlink(sample.resolve(), roots[copies] / str(copy))
    timed(
        roots[4], folder / "warm", 1, "--estimator", estimator
    )  # compiles kernels, brings the files to memory
    more = 12 * len(list_images(sample))
    speeds, free = {}, {}
    for workers in (1, 2):
        short, long = [
            timed(root, folder / f"workers-{workers}-{copies}", workers, "--estimator", estimator)
            for copies, root in roots.items()
        ]
        seconds = long["seconds"] - short["seconds"]
        speeds[workers] = more / seconds
        free[workers] = more / (seconds - (long["waited"] - short["waited"]))
    return {
        "one": speeds[1],
        "two": speeds[2],
        "ratio": speeds[2] / speeds[1],
        "free_one": free[1],
        "free_two": free[2],
        "free_ratio": free[2] / free[1],
    }


def measure(args: Arguments) -> dict:
    """All measurements, as a dict that goes to JSON."""
    work = Path(args.out) / "scale"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    rows = []
    for count in args.counts:
        root, cache = work / "images", work / f"cache-{count}"
        make_images(root, count)  # the smaller set is the beginning of the larger
        first = timed(root, cache, 2, "--estimator", "centre", "--shard-size", str(SHARD))
        again = timed(root, cache, 2, "--estimator", "centre", "--shard-size", str(SHARD))
        start = time.perf_counter()
        reader = Cache(cache)
        opened = time.perf_counter() - start
        rows.append(
            {
                "images": count,
                **first,
                "bytes": sum(f.stat().st_size for f in cache.iterdir()),
                "again_seconds": again["seconds"],
                "open_seconds": opened,
                "reads": read_speed(reader),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
        if count != max(args.counts):
            shutil.rmtree(cache)
    results = {
        "rows": rows,
        "side": SIDE,
        "shard_size": SHARD,
        "overhead": overhead(work / "images", work),
        "million": million(work),
        "listing_mb": listing_memory(),
        **about(),
    }
    if Path(args.sample).is_dir():
        results["workers"] = two_workers(Path(args.sample), work, args.estimator)
        results["sample_images"] = len(list_images(args.sample))
    shutil.rmtree(work)
    results["fit"] = fit(results)
    return results


def million(folder: Path) -> dict[str, float]:
    """Time to open a cache of ImageNet's 1,281,167 rows (its index; the shards are sparse files),
    and of random reads over 3,000 shards."""
    sparse_cache(folder / "million", IMAGENET, 4096)
    start = time.perf_counter()
    reader = Cache(folder / "million")
    opened = time.perf_counter() - start
    start = time.perf_counter()
    reader.find(reader.paths)
    found = time.perf_counter() - start
    del reader
    sparse_cache(folder / "shards", 3000 * 8, 8)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        reads = read_speed(Cache(folder / "shards"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return {"open_seconds": opened, "find_seconds": found, "reads_3000_shards": reads}


LISTING = """
import os, types
from data.sources import images
from data.sources import listing
folder = types.SimpleNamespace(st_dev=0, st_ino=0)

class Entries(list):
    def __enter__(self): return self
    def __exit__(self, *_): pass

def entry(name, is_folder):
    return types.SimpleNamespace(name=name, is_dir=lambda: is_folder)

def scandir(path):
    depth = path.count(b"/")
    if depth == 0:
        return Entries(entry(b"n%08d" % i, True) for i in range(1000))
    name = path.split(b"/")[1]
    return Entries(entry(name + b"_%d.JPEG" % i, False) for i in range(1281 + (int(name[1:]) < 167)))

numbers = iter(range(10**6))
os.scandir, os.stat = scandir, lambda path: types.SimpleNamespace(st_dev=0, st_ino=next(numbers))
paths = listing.list_folder("root")
assert len(paths) == 1281167
status = dict(line.split(":", 1) for line in open("/proc/self/status"))  # getrusage would count the parent's peak
print(int(status["VmHWM"].split()[0]) / 1024)
"""


def listing_memory() -> float:
    """Peak resident MB of a process that lists ImageNet's 1,281,167 paths from a folder that only
    seems to be there."""
    return float(
        subprocess.run(
            [sys.executable, "-c", LISTING], check=True, capture_output=True, text=True
        ).stdout
    )


def main() -> None:
    args = tyro.cli(Arguments, prog="python -m benchmarks.scale", description=__doc__)
    results = measure(args)
    publish(results, table(results), Path(args.out) / "scale.json", args.readme, "bench-scale")


if __name__ == "__main__":
    run(main)
