"""Networks in the batch stage: the same bytes whatever the workers, in batches or alone, on a
device or in workers."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from data.cache.reader import Cache
from data.cache.shard import STATUS
from data.cli import UsageError
from data.sources.images import open_images
from preprocess import recipe as blocks
from preprocess.networks import batches
from preprocess.pipeline import build
from preprocess.recipe import Recipe
from tests.preprocess.runs import TREE, content, inline, one_line, wait_for


@pytest.fixture(scope="module")
def recipe(weights):
    return Recipe("u2netp", (("side", 32),), 32, weights=str(weights), batch=3)


@pytest.fixture(scope="module")
def few(images, tmp_path_factory):
    """Nine images, and one that cannot be read."""
    root = tmp_path_factory.mktemp("few")
    for i, path in enumerate(sorted((images / "train").rglob("*.png"))[:10]):
        (root / f"{i}.png").write_bytes(path.read_bytes())
    (root / "4.png").write_bytes(b"no image")
    return root


def make(root: Path, folder: Path, recipe: Recipe, workers: int = 0, **options) -> Path:
    build(str(root), str(folder), recipe, shard_size=4, workers=workers, **options)
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


def on_device(recipe: Recipe) -> OnDevice:
    return OnDevice(**vars(recipe))


def test_masks_are_the_networks_also_refined(few, recipe, cache):
    refined = replace(recipe, parameters=(("refine", "guided"), ("side", 32)))
    images = open_images(str(few))
    pictures = [cv2.imread(str(few / f"{i}.png")) for i in range(10) if i != 4]
    for one in (recipe, refined, on_device(refined)):
        maps = [one.load().working(picture[..., ::-1]) for picture in pictures]
        expected = [cv2.resize(m, (32, 32), interpolation=cv2.INTER_AREA) for m in maps]
        rows = batches.Batches(one).rows(batches.prepare_block(images, one))
        assert np.flatnonzero(rows["status"]).tolist() == [4] and not rows["mask"][4].any()
        assert np.abs(rows["mask"][rows["status"] == 0] - 255 * np.stack(expected)).max() <= 2
    assert refined.identity() != recipe.identity()
    plain = blocks.compute_block(images, Recipe("centre", (), 32))
    for name in ("path", "size", "digest", "status"):
        assert np.array_equal(Cache(cache).column(name), plain[name])


def test_the_same_bytes_by_workers_by_parts_and_by_the_driver(few, recipe, cache, tmp_path):
    assert content(make(few, tmp_path / "workers", recipe, 2)) == content(cache)
    assert content(make(few, tmp_path / "driver", on_device(recipe), 2)) == content(cache)
    for part in ((2, 2), (1, 2)):
        make(few, tmp_path / "parts", recipe, part=part)
    assert content(tmp_path / "parts") == content(cache)
    for batch in (1, 64):
        rows = batches.compute_block(open_images(str(few)), replace(recipe, batch=batch))
        assert np.abs(rows["mask"] - levels(cache)).max() <= 2


def test_other_weights_are_another_cache(few, recipe, cache, tmp_path):
    state = torch.load(recipe.weights, weights_only=True)
    state["outconv.bias"] += 1
    torch.save(state, tmp_path / "other.pth")
    other = replace(recipe, weights=str(tmp_path / "other.pth"))
    message = r"made with other parameters \(weights [0-9a-f]{64} -> [0-9a-f]{64}\)"
    with pytest.raises(UsageError, match=message):
        make(few, cache, other)
    assert replace(recipe, precision="bf16").identity()["parameters"]["precision"] == "bf16"
    assert replace(recipe, batch=7).identity() == recipe.identity()
    with pytest.raises(UsageError, match="changed while it was in use"):
        replace(recipe, sha256="0" * 64).load()


class Small:
    """A network whose device has memory for `room` images; the map says how bright the image
    is."""

    version, weights, parameters = 1, "0" * 64, {}

    def __init__(self, room):
        self.room, self.seen = room, []
        self.architecture = SimpleNamespace(finish=self.finish)

    def forward(self, batch):
        self.seen.append(len(batch))
        if len(batch) > self.room:
            raise MemoryError("2.00 GiB")
        return batch.mean((1, 2, 3), dtype=np.float32)[:, None, None] / 255

    def finish(self, output):
        return np.full((4, 4), output[0, 0], np.float32)


def test_out_of_memory_halves_the_batch_and_says_so(few, recipe, monkeypatch, capsys):
    network = Small(room=2)
    monkeypatch.setattr(blocks, "load", lambda recipe: network)
    images, device = open_images(str(few)), on_device(replace(recipe, batch=8))
    rows = next(batches.infer(iter([batches.prepare_block(images, device)]), device))
    said = capsys.readouterr().err
    assert [f"batches of {n} from here on" in said for n in (8, 4, 2, 1)] == [0, 1, 1, 0]
    assert network.seen == [8, 4, 2, 2, 2, 2, 2]  # nine images: the last batch is filled up
    for i in range(10):
        image = cv2.imread(str(few / f"{i}.png"))
        assert rows["mask"][i].mean() == pytest.approx(0 if image is None else image.mean(), abs=1)
    network.room = 0
    with pytest.raises(UsageError, match="has not the memory for one image of u2netp"):
        batches.Batches(device).rows(batches.prepare_block(images, device))


def test_a_map_that_is_not_finite_costs_one_row(few, recipe, monkeypatch):
    class Broken(Small):
        def finish(self, output):
            if self.seen == [3]:
                raise FloatingPointError("boom")
            return np.full((4, 4), np.nan if len(self.seen) == 2 else 0.5, np.float32)

    monkeypatch.setattr(blocks, "load", lambda recipe: Broken(9))
    prepared = batches.prepare_block(open_images(str(few)), recipe)
    rows = batches.Batches(recipe).rows(prepared)
    failed, unreadable = STATUS["estimator"], STATUS["unreadable"]
    assert rows["status"].tolist() == [failed] * 4 + [unreadable] + [failed] * 2 + [0] * 3
    assert (rows["mask"][7:] == 128).all() and not rows["mask"][:7].any()


def test_an_image_that_kills_its_worker_costs_one_row_on_a_device_too(few, recipe, monkeypatch):
    """By the rescue of a block whose worker died."""
    from data.parallel import WorkerDied
    from preprocess import pipeline

    def alone(function, images):
        if b"2.png" in images.paths.tolist():
            raise WorkerDied
        return function(images)

    monkeypatch.setattr(pipeline, "alone", alone)
    monkeypatch.setattr(blocks, "load", lambda recipe: Small(9))
    report = SimpleNamespace(event=lambda *_, **__: None)
    device, images = on_device(recipe), open_images(str(few))
    rescued = pipeline.Rescue(device, report)(images, MemoryError())
    rows = next(batches.infer(iter([rescued]), device))
    bad = {2: STATUS["crashed"], 4: STATUS["unreadable"]}
    assert rows["status"].tolist() == [bad.get(i, 0) for i in range(10)]
    assert rows["path"].tolist() == images.paths.tolist() and rows["mask"][9].any()


DRIVER = """
import sys
from preprocess import __main__ as program
class OnDevice(program.Recipe):
    on_device = True
program.Recipe = lambda *given: OnDevice("u2netp", (), 32)
program.run(program.main)
"""


@pytest.mark.slow
def test_stopped_while_the_driver_computes_it_continues_to_the_same_bytes(images, recipe, tmp_path):
    (tmp_path / "driver.py").write_text(DRIVER)
    folder = tmp_path / "cache"
    options = f"--estimator u2netp --shard-size 4 --workers 1 --weights {recipe.weights}".split()
    command = [sys.executable, tmp_path / "driver.py", images / "train", folder, *options]
    environment = {**os.environ, "PYTHONPATH": str(TREE)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    wait_for(lambda: list(folder.glob("shard-*.h5")), process)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 0 and "Traceback" not in errors
    assert "the same command continues" in errors
    assert 0 < len(list(folder.glob("shard-*.h5"))) < 20 and not list(folder.glob("*.tmp"))
    assert subprocess.run(command, capture_output=True, env=environment).returncode == 0
    whole = make(images / "train", tmp_path / "whole", replace(recipe, parameters=(), batch=4))
    assert content(folder) == content(whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("u2net", "no weights for u2net: put u2net.pth into $DILO_WEIGHTS"),
        ("u2netp --weights {few}/0.png", "0.png: not a file of weights that can be loaded"),
        ("rbd --device cuda", "--device is for networks (basnet"),
        ("rbd --net-side 8", "--net-side goes with --estimator onnx"),
        ("u2netp --weights {weights} --batch 0", "--batch 0: must be 1 to"),
        ("u2netp --weights {weights} --device cuda --dask tcp://x:1", "--part"),
        pytest.param(
            "u2netp --weights {weights} --device cuda",
            "error: --device cuda: ",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here"),
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    few, recipe, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("DILO_WEIGHTS", "")
    options = arguments.format(few=few, weights=recipe.weights).split()
    assert message in one_line(inline(few, tmp_path / "out", "--estimator", *options))
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_masks_on_a_gpu(few, recipe, cache, tmp_path, precision):
    """Workers decode ahead, the driver computes; float32 masks are a CPU's within two levels.
    Random weights give maps of little contrast, and stretching them makes bfloat16's error as large
    as 9 levels on a CPU too."""
    gpu = replace(recipe, device="cuda", precision=precision)
    one, three = (make(few, tmp_path / f"{workers}", gpu, workers) for workers in (1, 3))
    assert content(one) == content(three)
    apart = np.abs(levels(cache) - levels(one))
    assert apart.max() <= 2 if precision == "fp32" else apart.mean() < 16
