"""The mask cache: contract on disk, reader, damage."""

import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from benchmarks.sparse import sparse_cache
from data.cache.description import identity_hash, load_description
from data.cache.index import load_index, write_index
from data.cache.reader import Cache
from data.cache.shard import CacheError
from data.checksums import problems
from data.sources.images import list_images


def true_mask(images: Path, path: bytes, side: int) -> np.ndarray:
    mask = cv2.imread(str(images / "masks" / path.decode()), cv2.IMREAD_GRAYSCALE)
    return cv2.resize(mask.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)


def shard(folder: Path, number: int) -> Path:
    return next(folder.glob(f"shard-{number:05d}-*.h5"))


@pytest.fixture
def copy(truth_cache, tmp_path) -> Path:
    return Path(shutil.copytree(truth_cache, tmp_path / "cache"))


def test_rows_are_the_images_masks_in_the_order_of_their_paths(images, truth_cache):
    cache = Cache(truth_cache)
    assert len(cache) == 80 and cache.side == 32 and not cache.status.any()
    assert np.array_equal(cache.paths, list_images(images / "train"))
    for row in (0, 29, 30, 59, 60, 79):  # both sides of each shard's border
        assert np.abs(cache.mask(row) - true_mask(images, cache.paths[row], 32)).max() <= 0.51


def test_shards_can_be_mapped_and_hold_what_their_rows_were_made_from(images, truth_cache):
    for file in sorted(truth_cache.glob("shard-*.h5")):
        with h5py.File(file) as content:
            for name in ("mask", "path", "key", "size", "digest", "status", "quality/coverage"):
                assert content[name].chunks is None and content[name].compression is None
                assert content[name].id.get_offset() % 4096 == 0
            assert content["size"][0].tolist() == [48, 48]
            means = content["mask"][...].mean((1, 2)) / 255
            assert content["quality/coverage"][...] == pytest.approx(means, abs=2e-3)
            path = os.fsdecode(content["path"][0])
            stats = [(images / folder / path).stat() for folder in ("train", "masks")]
            key = [number for stat in stats for number in (stat.st_size, stat.st_mtime_ns)]
            assert content["key"][0].tolist() == key


def test_checksums_are_in_sha256sums_format_and_begin_in_the_names(truth_cache):
    command = ["sha256sum", "-c", "CHECKSUMS"]
    done = subprocess.run(command, cwd=truth_cache, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count("OK") == 3
    for line in (truth_cache / "CHECKSUMS").read_text().splitlines():
        assert line.endswith(f"-{line[:16]}.h5")


def test_find_takes_any_subset_and_says_what_is_missing(truth_cache):
    cache = Cache(truth_cache)
    wanted = np.array([cache.paths[70], b"class0/none.png", cache.paths[3], b"zzz"], dtype="S20")
    assert cache.find(wanted).tolist() == [70, -1, 3, -1]
    message = r"lacks the masks of 2 of the run's 4 images \(first: class0/none.png, zzz\)"
    with pytest.raises(CacheError, match=message):
        cache.require(wanted)


def _mask_sum(cache: Cache, row: int, results) -> None:
    results.put(int(cache.mask(row).sum()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_reader_goes_to_workers_without_its_arrays(truth_cache, method):
    cache = Cache(truth_cache)
    expected = int(cache.mask(40).sum())  # a map is open when the worker starts
    assert len(pickle.dumps(cache)) < 1000
    context = multiprocessing.get_context(method)
    results = context.Queue()
    worker = context.Process(target=_mask_sum, args=(cache, 40, results))
    worker.start()
    assert results.get(timeout=60) == expected
    worker.join()


def test_3000_shards_work_at_256_descriptors(tmp_path):
    sparse_cache(tmp_path / "cache", 3000 * 2, 2)
    code = (
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256));"
        "from data.cache.reader import Cache; cache = Cache(sys.argv[1]); view = cache.mask(0);"
        "print(sum(int(cache.mask(row).sum()) for row in range(len(cache))), view.flags.writeable)"
    )
    command = [sys.executable, "-c", code, tmp_path / "cache"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.stdout.split() == ["0", "False"], done.stderr


def test_missing_or_stale_index_is_rebuilt(copy):
    before = load_index(copy, Cache(copy).description)
    (copy / "index.h5").unlink()
    assert np.array_equal(Cache(copy).paths, before["path"])
    with h5py.File(copy / "index.h5", "a") as index:
        index.attrs["checksum"] = 0
    shard(copy, 2).unlink()
    with pytest.raises(CacheError, match=r"shard-00002-\w+.h5 is missing"):
        Cache(copy)


def test_a_shard_cut_short_is_an_error_when_the_cache_is_opened(copy):
    shard(copy, 1).write_bytes(shard(copy, 1).read_bytes()[:-5000])
    with pytest.raises(CacheError, match=r"shard-00001-\w+.h5 is cut short .* with --repair"):
        Cache(copy)


def test_one_flipped_bit_anywhere_is_found(copy):
    files = Cache(copy).files
    assert [text for _, text in problems(copy, files)] == [None] * 3
    content = bytearray(shard(copy, 1).read_bytes())
    for place in (0, 100, len(content) // 2, len(content) - 1):  # headers and data alike
        content[place] ^= 4
        shard(copy, 1).write_bytes(content)
        texts = [text for _, text in problems(copy, files)]
        assert "damaged" in texts[1] and texts[0] is None
        content[place] ^= 4


def test_no_cache_an_unfinished_and_an_old_one(tmp_path, copy):
    with pytest.raises(CacheError, match="no mask cache here"):
        Cache(tmp_path)
    description = json.loads((copy / "cache.json").read_text())
    (copy / "cache.json").write_text(json.dumps(description | {"schema": 1}))
    with pytest.raises(CacheError, match="schema 1, this version reads 2: make it again"):
        Cache(copy)
    (copy / "cache.json").unlink()
    with pytest.raises(CacheError, match="unfinished"):
        Cache(copy)


def mask_as(**storage):
    def change(file: h5py.File) -> None:
        masks = file.pop("mask")[...]
        file.create_dataset("mask", **({"data": masks} | storage))

    return change


def link(file: h5py.File) -> None:
    del file["quality"]
    file["quality"] = h5py.ExternalLink("/etc/passwd", "/")


@pytest.mark.parametrize(
    "change",
    [
        mask_as(chunks=(1, 32, 32)),
        mask_as(dtype="f4"),
        mask_as(data=np.zeros((30, 32, 31), "u1")),
        mask_as(data=None, shape=(10**6, 10**6), dtype="u1"),
        link,
    ],
)
def test_a_shard_from_elsewhere_is_read_only_as_this_version_writes_it(copy, data, change):
    with h5py.File(shard(copy, 0), "a") as file:
        change(file)
    (copy / "index.h5").unlink()
    code, _, said = data("info", copy)
    assert code == 2 and said.count("\n") == 1
    assert "shard-00000-" in said and "is damaged or cut short" in said


@pytest.mark.parametrize("kind", ["shard", "index.h5", "cache.json", "pipe"])
def test_links_out_of_the_folder_and_pipes_are_not_read(copy, tmp_path, data, kind):
    file = shard(copy, 1) if kind in ("shard", "pipe") else copy / kind
    elsewhere = file.rename(tmp_path / "elsewhere")
    if kind == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to(elsewhere)
    code, _, said = data("info", copy)
    if kind == "index.h5":  # made again
        assert code == 0 and not file.is_symlink() and elsewhere.exists()
    else:
        assert code == 2 and said.count("\n") == 1 and file.name in said
        assert ("cp -rL" in said) == (kind == "cache.json")
    if kind in ("shard", "pipe"):
        code, _, said = data("verify", copy)
        assert code == 1 and f"{file.name}: no file of this folder" in said


def test_a_link_within_the_folder_and_to_it_is_read(copy, tmp_path):
    file = shard(copy, 1)
    file.rename(copy / "kept")
    file.symlink_to("kept")
    (tmp_path / "link").symlink_to(copy)
    assert np.array_equal(Cache(tmp_path / "link").mask(40), Cache(copy).mask(40))


@pytest.mark.parametrize(
    "change",
    [
        {"shards": ["../other/shard-00000-0123456789abcdef.h5"] * 3},
        {"shards": ["shard-00000-0123456789abcdef.h5"] * 3},
        {"shards": 3},
        {"images": 10**9},
        {"images": 80.0},
        {"shard_size": 0},
        {"statuses": None},
        {"identity": {"side": 10**9}},
        {"identity": {"side": 32}},
        {"identity": []},
    ],
)
@pytest.mark.parametrize("command", ["info", "verify", "clean"])
def test_a_description_from_elsewhere_is_checked_before_anything_is_opened(
    copy, data, command, change
):
    description = json.loads((copy / "cache.json").read_text()) | change
    description["identity_hash"] = identity_hash(description["identity"])
    (copy / "cache.json").write_text(json.dumps(description))
    code, _, said = data(command, copy)
    assert code == 2 and said.count("\n") == 1 and "cache.json: damaged" in said


@pytest.mark.parametrize("offset", [-4096, 4095, 10**12])
def test_an_index_from_elsewhere_leads_to_no_byte_outside_of_the_shard(copy, offset):
    description = load_description(copy)
    index = load_index(copy, description)
    index["offset"][0] = offset
    write_index(copy, index, description)
    if offset == 4095:  # within the file
        assert Cache(copy).mask(0).shape == (32, 32)
    else:
        with pytest.raises(CacheError, match="cut short"):
            Cache(copy)


@pytest.mark.parametrize(
    "change", [{"status": np.zeros((80, 2), "u1")}, {"offset": np.zeros(3)}, {"path": [b"x"]}]
)
def test_an_index_of_other_columns_is_made_again(copy, change):
    expected, description = Cache(copy).paths, load_description(copy)
    index = load_index(copy, description)
    write_index(copy, index | {k: np.asarray(v) for k, v in change.items()}, description)
    assert np.array_equal(Cache(copy).paths, expected) and Cache(copy).mask(79).any()
