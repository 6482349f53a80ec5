"""Networks in the batch stage: the same bytes in batches or alone, on a device or in workers."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data.cache.reader import Cache
from data.cache.shard import STATUS
from data.sources.images import open_images
from preprocess import pipeline, writer
from preprocess import recipe as blocks
from preprocess.networks import batches
from preprocess.recipe import Recipe
from tests.conftest import contents, refused


@pytest.fixture(scope="module")
def recipe(weights):
    return Recipe("u2netp", (("side", 32),), 32, weights=str(weights), batch=3)


@pytest.fixture(scope="module")
def few(images, tmp_path_factory):
    root = tmp_path_factory.mktemp("few")
    for i, path in enumerate(sorted((images / "train").rglob("*.png"))[:9]):
        (root / f"{i}.png").write_bytes(path.read_bytes())
    (root / "4.png").write_bytes(b"no image")
    cv2.imwrite(str(root / "9.png"), np.full((48, 48, 3), 255, np.uint8))
    return root


def make(root: Path, folder: Path, recipe: Recipe, workers: int = 0, **options) -> Path:
    pipeline.build(str(root), str(folder), recipe, shard_size=4, workers=workers, **options)
    return folder


@pytest.fixture(scope="module")
def cache(few, recipe, tmp_path_factory):
    return make(few, tmp_path_factory.mktemp("cache") / "c", recipe)


def levels(folder: Path) -> np.ndarray:
    cache = Cache(folder)
    return np.stack([cache.mask(i) for i in range(len(cache))]).astype(int)


class OnDevice(Recipe):
    """The driver computes, as it does for a GPU; the device is the CPU."""

    on_device = True


def test_masks_are_the_networks_also_refined(few, recipe, cache):
    refined = replace(recipe, parameters=(("refine", "guided"), ("side", 32)))
    images = open_images(str(few))
    pictures = [cv2.imread(str(few / f"{i}.png")) for i in range(10) if i != 4]
    for one in (recipe, refined, OnDevice(**vars(refined))):
        maps = [one.load().working(picture[..., ::-1]) for picture in pictures]
        expected = [cv2.resize(m, (32, 32), interpolation=cv2.INTER_AREA) for m in maps]
        rows = batches.Batches(one).rows(batches.prepare_block(images, one))
        assert np.flatnonzero(rows["status"]).tolist() == [4] and not rows["mask"][4].any()
        assert np.abs(rows["mask"][rows["status"] == 0] - 255 * np.stack(expected)).max() <= 2
    plain = blocks.compute_block(images, Recipe("centre", (), 32))
    for name in ("path", "size", "digest", "status"):
        assert np.array_equal(Cache(cache).column(name), plain[name])


def test_the_same_bytes_by_workers_and_the_driver(few, recipe, cache, tmp_path, monkeypatch):
    assert contents(make(few, tmp_path / "workers", recipe, 2)) == contents(cache)

    def stop(folder, number, *rest):
        if number == 1:
            raise KeyboardInterrupt
        return write_shard(folder, number, *rest)

    write_shard, driver = writer.write_shard, OnDevice(**vars(recipe))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(writer, "write_shard", stop)
        make(few, tmp_path / "driver", driver, 2)
    assert len(list((tmp_path / "driver").glob("shard-*"))) == 1
    assert contents(make(few, tmp_path / "driver", driver, 2)) == contents(cache)
    for batch in (1, 64):
        rows = batches.compute_block(open_images(str(few)), replace(recipe, batch=batch))
        assert np.abs(rows["mask"] - levels(cache)).max() <= 2


def test_other_weights_are_another_cache(few, recipe, cache, tmp_path):
    torch.save(torch.load(recipe.weights, weights_only=True), tmp_path / "other.pth")
    other = replace(recipe, weights=str(tmp_path / "other.pth"))
    assert "made with other parameters (weights " in refused(make, few, cache, other)
    assert replace(recipe, precision="bf16").identity()["parameters"]["precision"] == "bf16"
    assert replace(recipe, batch=7).identity() == recipe.identity()
    assert "changed while it was in use" in refused(replace(recipe, sha256="0" * 64).load)


class Small:
    """Memory for `room` images; a map says how bright its image is, a white one's is not finite."""

    def __init__(self, room):
        self.room, self.seen = room, []
        self.architecture = self

    def forward(self, batch):
        self.seen.append(len(batch))
        if len(batch) > self.room:
            raise MemoryError("2.00 GiB")
        return batch.mean((1, 2, 3), dtype=np.float32)[:, None, None] / 255

    def finish(self, output):
        return np.full((4, 4), output[0, 0] if output[0, 0] < 1 else np.nan, np.float32)


def test_out_of_memory_halves_the_batch_and_says_so(few, recipe, monkeypatch, capsys):
    network = Small(room=2)
    monkeypatch.setattr(blocks, "load", lambda recipe: network)
    images, device = open_images(str(few)), OnDevice(**vars(recipe) | {"batch": 8})
    killer = blocks.crashed_row(images.take(slice(1)), device)
    rows, crashed = batches.infer(iter([batches.prepare_block(images, device), killer]), device)
    assert crashed["status"].tolist() == [STATUS["crashed"]]
    said = capsys.readouterr().err
    assert [f"batches of {n} from here on" in said for n in (8, 4, 2, 1)] == [0, 1, 1, 0]
    assert network.seen == [8, 4, 2, 2, 2, 2, 2]  # nine images: the last batch is filled up
    bad = {4: STATUS["unreadable"], 9: STATUS["estimator"]}
    assert rows["status"].tolist() == [bad.get(i, 0) for i in range(10)]
    for i in range(10):
        expected = 0 if i in bad else cv2.imread(str(few / f"{i}.png")).mean()
        assert rows["mask"][i].mean() == pytest.approx(expected, abs=1)
    network.room = 0
    block, message = batches.prepare_block(images, device), "not the memory for one image of u2netp"
    assert message in refused(batches.Batches(device).rows, block)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_masks_on_a_gpu(few, recipe, cache, tmp_path, precision):
    # random weights give maps of little contrast, and stretching them makes bfloat16's error large
    gpu = replace(recipe, device="cuda", precision=precision)
    one, three = (make(few, tmp_path / f"{workers}", gpu, workers) for workers in (1, 3))
    assert contents(one) == contents(three)
    apart = np.abs(levels(cache) - levels(one))
    assert apart.max() <= 2 if precision == "fp32" else apart.mean() < 16
