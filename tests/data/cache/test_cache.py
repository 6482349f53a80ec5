"""The mask cache: contract on disk, reader, damage, and files that come from elsewhere."""

import json
import os
import shutil
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
from data.sources.images import list_images
from tests.conftest import data, execute, one_line, refused

EXTERNAL = {"data": None, "shape": (30, 16), "external": [("/etc/hostname", 0, 480)]}
FOREIGN = [{"shards": ["../other/shard-00000-0123456789abcdef.h5"] * 3}, {"shards": 3}]
FOREIGN += [{"images": 10**9}, {"shard_size": 0}, {"statuses": None}, {"identity": []}]
FOREIGN += [{"identity": {"side": 10**9}}]


@pytest.fixture
def copy(truth_cache, tmp_path) -> Path:
    return Path(shutil.copytree(truth_cache, tmp_path / "cache"))


def test_rows_are_the_images_masks_in_the_order_of_their_paths(images, truth_cache):
    cache = Cache(truth_cache)
    assert np.array_equal(cache.paths, list_images(images / "train")) and not cache.status.any()
    for row in (0, 29, 30, 59, 60, 79):  # both sides of each shard's border
        mask = cv2.imread(str(images / "masks" / cache.paths[row].decode()), cv2.IMREAD_GRAYSCALE)
        true = cv2.resize(mask.astype(np.float32), (32, 32), interpolation=cv2.INTER_AREA)
        assert np.abs(cache.mask(row) - true).max() <= 0.51
    wanted = np.array([cache.paths[70], b"class0/none.png", cache.paths[3], b"zzz"], dtype="S20")
    assert cache.find(wanted).tolist() == [70, -1, 3, -1]
    assert "2 of the run's 4 images (first: class0/none.png" in refused(cache.require, wanted)


def test_shards_can_be_mapped_and_hold_what_their_rows_were_made_from(images, truth_cache):
    for file in truth_cache.glob("shard-*.h5"):
        with h5py.File(file) as content:
            for name in ("mask", "path", "key", "size", "digest", "status", "quality/coverage"):
                assert content[name].chunks is None and content[name].compression is None
                assert content[name].id.get_offset() % 4096 == 0
            means = content["mask"][...].mean((1, 2)) / 255
            assert content["quality/coverage"][...] == pytest.approx(means, abs=2e-3)
            path = os.fsdecode(content["path"][0])
            stats = [(images / folder / path).stat() for folder in ("train", "masks")]
            key = [number for stat in stats for number in (stat.st_size, stat.st_mtime_ns)]
            assert content["key"][0].tolist() == key
    done = execute(["sha256sum", "-c", "CHECKSUMS"], cwd=truth_cache)
    assert done.returncode == 0 and done.stdout.count("OK") == 3
    for line in (truth_cache / "CHECKSUMS").read_text().splitlines():
        assert line.endswith(f"-{line[:16]}.h5")


def test_3000_shards_work_at_256_descriptors(tmp_path):
    sparse_cache(tmp_path / "cache", 3000 * 2, 2)
    code = """import resource, sys
from data.cache.reader import Cache
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
cache = Cache(sys.argv[1])
print(sum(int(cache.mask(i).sum()) for i in range(len(cache))), cache.mask(0).flags.writeable)"""
    done = execute([sys.executable, "-c", code, tmp_path / "cache"])
    assert done.stdout.split() == ["0", "False"], done.stderr


def describe(**changes):
    def damage(copy: Path) -> None:
        description = load_description(copy) | changes
        description["identity_hash"] = identity_hash(description["identity"])
        (copy / "cache.json").write_text(json.dumps(description))

    return damage


def index(**columns):
    def damage(copy: Path) -> None:
        description = load_description(copy)
        write_index(copy, load_index(copy, description) | columns, description)

    return damage


def column(name: str, value: object = None, **options):
    """Puts a value, a link or a data set in the place of a column of the first shard."""

    def damage(copy: Path) -> None:
        (copy / "index.h5").unlink()
        with h5py.File(next(copy.glob("shard-00000*")), "a") as file:
            storage = {"data": file.pop(name)[...], "dtype": "u1"} | options
            if value is None:
                file.create_dataset(name, **storage)
            else:
                file[name] = value

    return damage


def change(name: str, action):
    return lambda copy: action(next(copy.glob(name)))


def move(file: Path) -> None:
    file.symlink_to(file.rename(file.parents[1] / "elsewhere"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (shutil.rmtree, "no mask cache here"),
        (change("cache.json", Path.unlink), "unfinished"),
        (change("shard-00002*", Path.unlink), "is missing"),
        (change("shard-00001*", lambda file: os.truncate(file, 30000)), "is cut short"),
        (change("shard-00001*", move), "a link that leads out"),
        (change("cache.json", move), "cp -rL"),
        (index(offset=np.array([-4096, 4096, 4096])), "is cut short"),
        (index(offset=np.array([10**12, 4096, 4096])), "is cut short"),
        (column("digest", chunks=(1, 16)), "is damaged or cut short"),
        (column("digest", h5py.ExternalLink("/etc/passwd", "/")), "is damaged or cut short"),
        (column("digest", **EXTERNAL), "is damaged or cut short"),
        (column("mask", np.zeros((30, 32, 31), "u1")), "is damaged or cut short"),
        (column("mask", data=None, shape=(10**6, 10**3, 10**3)), "is damaged or cut short"),
        (describe(schema=1), "schema 1, this version reads 2: make it again"),
        *((describe(**fields), "cache.json: damaged") for fields in FOREIGN),
    ],
)
def test_what_is_damaged_or_from_elsewhere_is_one_line(copy, damage, said):
    damage(copy)
    assert said in one_line(data("info", copy))


def test_a_link_to_the_folder_is_followed_and_an_index_that_does_not_fit_made_again(copy, tmp_path):
    (tmp_path / "link").symlink_to(copy)
    paths = Cache(tmp_path / "link").paths
    for damage in (change("index.h5", move), index(offset=np.zeros(3)), index(path=paths[:1])):
        damage(copy)
        assert np.array_equal(Cache(copy).paths, paths) and Cache(copy).mask(79).any()
    content = (copy / "index.h5").read_bytes()
    (copy / "index.h5").write_bytes(content.replace(b"class0/000", b"class0/xxx"))
    assert np.array_equal(Cache(copy).paths, paths)
