"""The mask cache: contract on disk, reader, damage."""

import multiprocessing
import os
import pickle
import shutil
import subprocess
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from data.cache.reader import Cache, load_index, verify
from data.cache.shard import CacheError
from data.sources.images import list_images


def true_mask(images: Path, path: bytes, side: int) -> np.ndarray:
    mask = cv2.imread(str(images / "masks" / path.decode()), cv2.IMREAD_GRAYSCALE)
    return cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)


def test_rows_are_the_images_masks_in_the_order_of_their_paths(images, truth_cache):
    cache = Cache(truth_cache)
    assert len(cache) == 80 and cache.side == 32 and not cache.status.any()
    assert np.array_equal(cache.paths, list_images(images / "train"))
    assert cache.paths.tolist() == sorted(cache.paths.tolist())
    for row in (0, 29, 30, 59, 60, 79):  # both sides of each shard's border
        assert np.abs(cache.mask(row) - true_mask(images, cache.paths[row], 32)).max() <= 0.51


def test_shards_can_be_mapped_and_are_aligned(truth_cache):
    for shard in sorted(truth_cache.glob("shard-*.h5")):
        with h5py.File(shard) as file:
            for name in ("mask", "path", "size", "digest", "status", "quality/coverage"):
                dataset = file[name]
                assert dataset.chunks is None and dataset.compression is None
                assert dataset.id.get_offset() % 4096 == 0
            assert file["size"][0].tolist() == [48, 48]
            assert file["quality/coverage"][...] == pytest.approx(
                file["mask"][...].mean((1, 2)) / 255, abs=2e-3
            )


def test_checksums_are_in_sha256sums_format(truth_cache):
    done = subprocess.run(
        ["sha256sum", "-c", "CHECKSUMS"], cwd=truth_cache, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.count("OK") == 3


def test_find_takes_any_subset_and_says_what_is_missing(truth_cache):
    cache = Cache(truth_cache)
    wanted = np.array([cache.paths[70], b"class0/none.png", cache.paths[3], b"zzz"], dtype="S20")
    assert cache.find(wanted).tolist() == [70, -1, 3, -1]
    with pytest.raises(
        CacheError,
        match=r"lacks the masks of 2 of the run's 4 images \(first: class0/none.png, zzz\)",
    ):
        cache.require(wanted)


def _mask_sum(cache: Cache, row: int, results) -> None:
    results.put(int(cache.mask(row).sum()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_reader_survives_workers(truth_cache, method):
    cache = Cache(truth_cache)
    expected = int(cache.mask(40).sum())  # a map is open when the worker starts
    context = multiprocessing.get_context(method)
    results = context.Queue()
    worker = context.Process(target=_mask_sum, args=(cache, 40, results))
    worker.start()
    assert results.get(timeout=60) == expected
    worker.join()


def test_reader_pickles_to_its_path(truth_cache):
    cache = Cache(truth_cache)
    cache.mask(0)
    content = pickle.dumps(cache)
    assert len(content) < 1000
    assert np.array_equal(pickle.loads(content).mask(79), cache.mask(79))


def test_open_maps_are_bounded_and_hold_no_descriptor(truth_cache, monkeypatch):
    monkeypatch.setattr("data.cache.reader.OPEN_MAPS", 2)
    cache = Cache(truth_cache)
    first = cache.mask(0)
    content, before = first.copy(), len(os.listdir("/proc/self/fd"))
    for row in range(80):
        cache.mask(row)
    assert len(cache._maps) <= 2 and len(os.listdir("/proc/self/fd")) == before
    assert np.array_equal(first, content)  # a view outlives its map's place in the reader
    assert np.array_equal(cache.mask(0), content) and not first.flags.writeable


@pytest.fixture
def copy(truth_cache, tmp_path) -> Path:
    return Path(shutil.copytree(truth_cache, tmp_path / "cache"))


def test_missing_or_stale_index_is_rebuilt(copy):
    before = load_index(copy, Cache(copy).description)
    (copy / "index.h5").unlink()
    assert np.array_equal(Cache(copy).paths, before["path"])
    assert (copy / "index.h5").exists()
    checksums = copy / "CHECKSUMS"
    checksums.write_text(
        checksums.read_text() + "\n"
    )  # another state of the shards than the index knows
    (copy / "shard-00002.h5").unlink()
    with pytest.raises(CacheError, match=r"shard-00002.h5 is missing"):
        Cache(copy)


def test_a_shard_cut_short_is_told_when_the_cache_is_opened(copy):
    shard = copy / "shard-00001.h5"
    shard.write_bytes(shard.read_bytes()[:-5000])
    with pytest.raises(
        CacheError,
        match=r"shard-00001.h5 is cut short .* `python -m preprocess` again with --repair",
    ):
        Cache(copy)


def test_verify_finds_one_flipped_bit_anywhere(copy):
    assert [problem for _, problem in verify(copy)] == [None] * 3
    shard = copy / "shard-00001.h5"
    content = bytearray(shard.read_bytes())
    for place in (0, 100, len(content) // 2, len(content) - 1):  # headers and data alike
        content[place] ^= 4
        shard.write_bytes(content)
        found = dict(verify(copy))
        assert "damaged" in found["shard-00001.h5"] and found["shard-00000.h5"] is None
        content[place] ^= 4


def test_no_cache_or_an_unfinished_one(tmp_path, copy):
    with pytest.raises(CacheError, match="no mask cache here"):
        Cache(tmp_path)
    description = copy / "cache.json"
    description.write_text(description.read_text().replace('"complete": true', '"complete": false'))
    with pytest.raises(CacheError, match="unfinished"):
        Cache(copy)
