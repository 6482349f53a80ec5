"""How the batch stage grows: 10^3, 10^4 and 10^5 images, a fitted line, and what 1.28 million would
take.

    python -m benchmarks.scale

That is `make bench-scale`: a few minutes, JSON in runs/bench/scale.json. Tiny PNGs and the `centre`
estimator, so that the engine is measured; the time of a real estimator comes from real images
(--sample), where there are any. Every run is a process of its own, so that peaks of memory are its
own.
"""

import json
import os
import resource
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import tyro

from benchmarks.processes import Usage, run_command, timed
from benchmarks.publish import PAGE, about, markdown, publish
from benchmarks.sparse import sparse_cache
from data.cache.reader import Cache
from data.cli import UsageError, run
from data.sources.images import list_images

IMAGENET = 1_281_167
SIDE = 128
SHARD = 1000  # as many as the smallest set has: the driver's memory is a few times a shard
FITTED = ("seconds", "driver_seconds", "bytes", "again_seconds", "driver_mb", "worker_mb")


HEADS = (
    "images | seconds | driver, MB | a worker, MB | cache, MB | no-op re-run, s | open, ms "
    "| reads/s"
)


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
    readme: str = PAGE
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


def masks(root: Path, cache: Path, workers: int, estimator: str = "centre") -> Usage:
    """One `python -m preprocess`."""
    settings = f"--side {SIDE} --workers {workers} --shard-size {SHARD} --estimator {estimator}"
    return run_command("-m", "preprocess", str(root), str(cache), *settings.split())


def read_speed(cache: Cache, reads: int = 200_000) -> float:
    """Random masks a second on one core, each copied, from a warm cache."""
    rows = np.random.default_rng(0).integers(0, len(cache), reads).tolist()
    target = np.empty((cache.side, cache.side), np.uint8)

    def read() -> None:
        for row in rows:
            target[...] = cache.mask(row)

    read()
    return reads / timed(read)[1]


def two_workers(sample: Path, folder: Path, estimator: str) -> dict[str, float]:
    """Images a second of one and of two workers on real images: from what a longer run takes more
    than a shorter one, so that starting and ending do not count. `free_*` leave out the time that
    workers waited for a core which other programs held: what an idle machine would show."""
    roots = {copies: folder / f"sample-{copies}" for copies in (4, 16)}
    for copies, root in roots.items():
        root.mkdir()
        for copy in range(copies):
            os.symlink(sample.resolve(), root / str(copy))
    masks(roots[4], folder / "warm", 1, estimator)  # compiles kernels, brings the files to memory
    more = 12 * len(list_images(sample))
    speeds = {}
    for workers, name in ((1, "one"), (2, "two")):
        short = masks(roots[4], folder / f"short-{name}", workers, estimator)
        long = masks(roots[16], folder / f"long-{name}", workers, estimator)
        seconds = long.seconds - short.seconds
        speeds[name] = more / seconds
        speeds[f"free_{name}"] = more / (seconds - (long.waited - short.waited))
    for kind in ("", "free_"):
        speeds[f"{kind}ratio"] = speeds[f"{kind}two"] / speeds[f"{kind}one"]
    return speeds


def measure(args: Arguments) -> dict:
    """All measurements, as a dict that goes to JSON."""
    work, sample = Path(args.out) / "scale", Path(args.sample)
    images = work / "images"
    shutil.rmtree(work, ignore_errors=True)
    rows = []
    for count in args.counts:
        make_images(images, count)  # the smaller set is the beginning of the larger
        rows.append({"images": count, **_measure_one(images, work / f"cache-{count}")})
        print(json.dumps(rows[-1]), flush=True)
    results = {
        "rows": rows,
        "side": SIDE,
        "shard_size": SHARD,
        "million": million(work),
        "listing_mb": listing_memory(),
        **about(),
    }
    if sample.is_dir():
        results["workers"] = two_workers(sample, work, args.estimator)
        results["sample_images"] = len(list_images(sample))
    shutil.rmtree(work)
    results["fit"] = fit(results)
    return results


def _measure_one(root: Path, cache: Path) -> dict[str, float]:
    first, again = masks(root, cache, 2), masks(root, cache, 2)
    return {
        **asdict(first),
        "bytes": sum(file.stat().st_size for file in cache.iterdir()),
        "again_seconds": again.seconds,
        "open_seconds": timed(Cache, cache)[1],
        "reads": read_speed(Cache(cache)),
    }


def million(folder: Path) -> dict[str, float]:
    """Time to open a cache of ImageNet's 1,281,167 rows (its index; the shards are sparse files),
    and of random reads over 3,000 shards."""
    sparse_cache(folder / "million", IMAGENET, 4096)
    _, opened = timed(Cache, folder / "million")
    reader = Cache(folder / "million")
    _, found = timed(reader.find, reader.paths)
    sparse_cache(folder / "shards", 3000 * 8, 8)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        reads = read_speed(Cache(folder / "shards"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return {"open_seconds": opened, "find_seconds": found, "reads_3000_shards": reads}


LISTING = """
import os, time, types
from data.sources import listing

class Entries:
    def __init__(self, entries): self.entries = entries
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def __next__(self): return next(self.entries)

def entry(name, is_folder):
    return types.SimpleNamespace(name=name, is_dir=lambda: is_folder)

def scandir(path):
    depth = path.count(b"/")
    if depth == 0:
        return Entries(entry(b"n%08d" % i, True) for i in range(1000))
    name = path.split(b"/")[1]
    count = 1281 + (int(name[1:]) < 167)
    return Entries(entry(name + b"_%d.JPEG" % i, False) for i in range(count))

os.scandir = scandir
paths = listing.list_folder("root")
assert len(paths) == 1281167
time.sleep(0.3)  # its peak is sampled
"""


def listing_memory() -> float:
    """Peak resident MB of a process that lists ImageNet's 1,281,167 paths from a folder that only
    seems to be there."""
    return run_command("-c", LISTING).driver_mb


def fit(results: dict) -> dict:
    """Lines through the measurements, and what 1.28 M images would take."""
    counts = np.array([row["images"] for row in results["rows"]], float)
    lines = {}
    for name in FITTED:
        values = [row[name] for row in results["rows"]]
        slope, start = np.polyfit(counts, values, 1, w=1 / np.sqrt(counts)).tolist()
        at_imagenet = start + slope * IMAGENET
        lines[name] = {"per_image": slope, "at_0": start, "at_imagenet": at_imagenet}
    hours = {}
    if "workers" in results:
        one = 1 / results["workers"]["free_one"]  # decoding, estimator and engine
        driver = lines["driver_seconds"]["per_image"]  # one process writes: it sets a floor
        hours = {str(cores): IMAGENET * max(one / cores, driver) / 3600 for cores in (16, 64)}
    return {"lines": lines, "hours": hours}


def table(results: dict) -> str:
    """The results as Markdown."""
    rows = [
        f"{row['images']:,} | {row['seconds']:.1f} | {row['driver_mb']:.0f} | "
        f"{row['worker_mb']:.0f} | {row['bytes'] / 1e6:.0f} | {row['again_seconds']:.1f} | "
        f"{1e3 * row['open_seconds']:.0f} | {row['reads']:,.0f}"
        for row in results["rows"]
    ]
    lines = [markdown(HEADS, rows, 8)]
    line = {name: values["at_imagenet"] for name, values in results["fit"]["lines"].items()}
    rows = results["million"]
    lines.append(
        f"\nTiny images, the `centre` estimator, masks of {results['side']}x{results['side']}, "
        f"{results['shard_size']:,} a shard, two workers ({results['machine']}). Fitted to "
        f"1,281,167 images: {line['bytes'] / 1e9:.1f} GB, a no-op re-run in "
        f"{line['again_seconds']:.0f} s, {line['driver_mb']:.0f} MB in the driver and "
        f"{line['worker_mb']:.0f} MB in a worker. Opening a cache of 1,281,167 rows: "
        f"{rows['open_seconds']:.2f} s; random reads over 3,000 shards at `ulimit -n 256`: "
        f"{rows['reads_3000_shards']:,.0f} a second; listing 1,281,167 paths peaks at "
        f"{results['listing_mb']:.0f} MB."
    )
    hours = results["fit"]["hours"]
    if hours:
        speed = results["workers"]
        per_second = 1 / results["fit"]["lines"]["driver_seconds"]["per_image"]
        lines.append(
            f"\nWith the real estimator on real images: {speed['one']:.1f} images/s with one "
            f"worker, {speed['two']:.1f} with two ({speed['ratio']:.2f} times; "
            f"{speed['free_one']:.1f} and {speed['free_two']:.1f}, {speed['free_ratio']:.2f} "
            "times, less the time that other programs held the cores). 1.28 M images at that "
            f"speed: {hours['16']:.1f} hours on 16 cores, {hours['64']:.1f} on 64 (scaled, not "
            f"run; one driver alone could take {per_second:,.0f} images/s, more with --part)."
        )
    return "\n".join(lines)


def main() -> None:
    args = tyro.cli(Arguments, prog="python -m benchmarks.scale", description=__doc__)
    if len(set(args.counts)) < 2 or min(args.counts) < 1:
        raise UsageError(f"--counts {args.counts}: a line needs two numbers of images or more")
    results = measure(args)
    publish(results, table(results), Path(args.out) / "scale.json", args.readme, "bench-scale")


if __name__ == "__main__":
    run(main)
