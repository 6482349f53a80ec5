"""Size: bounded memory, a quick re-run."""

import time

import pytest

from benchmarks.scale import listing_memory, make_images, masks, read_speed
from benchmarks.sparse import sparse_cache
from data.cache.reader import Cache


def test_a_cache_of_imagenets_size_opens_within_a_second(tmp_path):
    sparse_cache(tmp_path / "cache", 1_281_167, 4096)
    start = time.perf_counter()
    assert len(Cache(tmp_path / "cache")) == 1_281_167
    assert time.perf_counter() - start < 1


@pytest.mark.slow
def test_100_000_images_take_no_more_memory_than_1000_and_a_no_op_takes_seconds(tmp_path):
    assert listing_memory() < 200
    peaks = {}
    for count in (1000, 100_000):
        make_images(tmp_path / "images", count)
        peaks[count] = masks(tmp_path / "images", tmp_path / f"cache-{count}", 2)
    assert peaks[100_000].driver_mb < peaks[1000].driver_mb + 40  # the list: 300 bytes an image
    assert peaks[100_000].worker_mb < peaks[1000].worker_mb + 20
    assert masks(tmp_path / "images", tmp_path / "cache-100000", 2).seconds < 10
    assert read_speed(Cache(tmp_path / "cache-100000")) > 100_000
