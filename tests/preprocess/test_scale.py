"""Size: thousands of shards at `ulimit -n 256`, bounded memory, a quick re-run, the benchmark's
report."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.growth import table
from benchmarks.publish import fill
from benchmarks.scale import Arguments, listing_memory, make_images, measure, read_speed, timed
from benchmarks.sparse import sparse_cache
from data.cache.reader import Cache

TREE = Path(__file__).parents[2]


def test_3000_shards_work_at_256_descriptors(tmp_path):
    sparse_cache(tmp_path / "cache", 3000 * 2, 2)
    code = (
        "import resource, sys; sys.path.insert(0, sys.argv[1]);"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256));"
        "from data.cache.reader import Cache; cache = Cache(sys.argv[2]);"
        "print(sum(int(cache.mask(row).sum()) for row in range(len(cache))), len(cache._maps))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, TREE, tmp_path / "cache"], capture_output=True, text=True
    )
    assert done.stdout.split() == ["0", "3000"], done.stderr


def test_the_benchmark_reports_every_column(tmp_path, monkeypatch):
    for name, value in (
        ("million", {"open_seconds": 0.5, "find_seconds": 1.0, "reads_3000_shards": 1e5}),
        ("listing_memory", 100.0),
    ):
        monkeypatch.setattr(f"benchmarks.scale.{name}", lambda *_, value=value: value)
    results = measure(Arguments(out=str(tmp_path / "bench"), counts=(100, 200), sample="nowhere"))
    json.dumps(results)
    assert [row["images"] for row in results["rows"]] == [100, 200]
    assert all(
        row["driver_mb"] > 20 and row["worker_mb"] > 20 and row["reads"] > 1000
        for row in results["rows"]
    )
    assert not (tmp_path / "bench" / "scale").exists()
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- bench-scale:begin -->\nold\n<!-- bench-scale:end -->\nb\n")
    fill(readme, "bench-scale", table(results))
    assert "| 200 |" in readme.read_text() and "old" not in readme.read_text()


@pytest.mark.slow
def test_listing_imagenet_takes_less_than_200_mb():
    assert listing_memory() < 200


@pytest.mark.slow
def test_a_cache_of_imagenets_size_opens_within_a_second(tmp_path):
    sparse_cache(tmp_path / "cache", 1_281_167, 4096)
    Cache(tmp_path / "cache")
    start = time.perf_counter()
    cache = Cache(tmp_path / "cache")
    assert time.perf_counter() - start < 1 and len(cache) == 1_281_167


@pytest.mark.slow
def test_100_000_images_take_no_more_memory_than_1000_and_a_no_op_takes_seconds(tmp_path):
    peaks = {}
    for count in (1000, 100_000):
        make_images(tmp_path / "images", count)
        options = ("--estimator", "centre", "--shard-size", "1000")
        peaks[count] = timed(tmp_path / "images", tmp_path / f"cache-{count}", 2, *options)
    assert (
        peaks[100_000]["driver_mb"] < peaks[1000]["driver_mb"] + 40
    )  # the list itself: 300 bytes an image
    assert peaks[100_000]["worker_mb"] < peaks[1000]["worker_mb"] + 20
    assert timed(tmp_path / "images", tmp_path / "cache-100000", 2, *options)["seconds"] < 10
    assert read_speed(Cache(tmp_path / "cache-100000")) > 100_000
