"""Networks in the batch stage: the same bytes whatever the workers, in batches or alone, on a
device or in workers."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data.cache.reader import Cache
from data.cache.shard import STATUS
from data.cli import UsageError
from data.sources.images import open_images
from preprocess import recipe as blocks
from preprocess.estimators.u2netp import U2NetP
from preprocess.networks import batches
from preprocess.pipeline import build
from preprocess.recipe import Recipe
from tests.preprocess.runs import TREE, content, one_line, wait_for


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "u2netp.pth"
    torch.save(U2NetP().build().state_dict(), path)
    return Recipe("u2netp", (("side", 32),), 32, weights=str(path), batch=3)


@pytest.fixture(scope="module")
def few(images, tmp_path_factory):
    """Nine images, and one that cannot be read."""
    root = tmp_path_factory.mktemp("few")
    for i, path in enumerate(sorted((images / "train").rglob("*.png"))[:10]):
        (root / f"{i}.png").write_bytes(path.read_bytes())
    (root / "4.png").write_bytes(b"no image")
    return root


def make(root: Path, folder: Path, recipe: Recipe, workers: int = 0) -> Path:
    build(str(root), str(folder), recipe, shard_size=4, workers=workers)
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
    pictures = [cv2.imread(str(few / f"{i}.png")) for i in range(10)]
    for one in (recipe, refined, on_device(refined)):
        maps = one.load().batch([picture[..., ::-1] for picture in pictures if picture is not None])
        expected = [cv2.resize(m, (32, 32), interpolation=cv2.INTER_AREA) for m in maps]
        rows = batches.Batches(one.load(), one).rows(batches.prepare_block(images, one))
        assert np.flatnonzero(rows["status"]).tolist() == [4] and not rows["mask"][4].any()
        assert np.abs(rows["mask"][rows["status"] == 0] - 255 * np.stack(expected)).max() <= 2
    assert refined.identity() != recipe.identity()
    plain = blocks.compute_block(images, Recipe("centre", (), 32))
    for name in ("path", "size", "digest", "status"):
        assert np.array_equal(Cache(cache).column(name), plain[name])


def test_the_same_bytes_by_workers_and_by_the_driver(few, recipe, cache, tmp_path):
    assert content(make(few, tmp_path / "workers", recipe, 2)) == content(cache)
    assert content(make(few, tmp_path / "driver", on_device(recipe), 2)) == content(cache)
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
    """An estimator whose device has memory for `room` images; the map says how bright the image
    is."""

    version, weights, parameters = 1, "0" * 64, {}

    def __init__(self, room):
        self.room, self.seen = room, []

    def forward(self, batch):
        self.seen.append(len(batch))
        if len(batch) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return batch.mean((1, 2, 3), dtype=np.float32)[:, None, None] / 255

    def finish(self, output, thumbnail=None):
        return np.full((4, 4), output[0, 0], np.float32)


def test_out_of_memory_halves_the_batch_and_says_so(few, recipe, monkeypatch):
    network, events = Small(room=2), []
    monkeypatch.setattr(blocks, "load", lambda recipe: network)
    images, device = open_images(str(few)), on_device(replace(recipe, batch=8))
    prepared = iter([batches.prepare_block(images, device)])
    rows = next(batches.infer(prepared, device, lambda *what, **values: events.append(values)))
    assert events == [{"batch": 4}, {"batch": 2}]
    assert network.seen == [8, 4, 2, 2, 2, 2, 2]  # nine images: the last batch is filled up
    for i in range(10):
        image = cv2.imread(str(few / f"{i}.png"))
        assert rows["mask"][i].mean() == pytest.approx(0 if image is None else image.mean(), abs=1)
    none = batches.Batches(Small(room=0), device, lambda *_, **__: None)
    with pytest.raises(UsageError, match="has not the memory for one image of u2netp"):
        none.rows(batches.prepare_block(images, device))


def test_a_map_that_is_not_finite_costs_one_row(few, recipe):
    class Broken(Small):
        def finish(self, output, thumbnail=None):
            if self.seen == [3]:
                raise FloatingPointError("boom")
            return np.full((4, 4), np.nan if len(self.seen) == 2 else 0.5, np.float32)

    prepared = batches.prepare_block(open_images(str(few)), recipe)
    rows = batches.Batches(Broken(9), recipe).rows(prepared)
    failed, unreadable = STATUS["estimator"], STATUS["unreadable"]
    assert rows["status"].tolist() == [failed] * 4 + [unreadable] + [failed] * 2 + [0] * 3
    assert (rows["mask"][7:] == 128).all() and not rows["mask"][:7].any()


@pytest.mark.slow
def test_workers_that_die_while_they_decode_ahead_change_no_byte(
    images, recipe, tmp_path, monkeypatch, capsys
):
    class Murderer(Small):
        def forward(self, batch):
            if not self.seen:
                for file in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
                    for child in map(int, file.read_text().split()):
                        if b"popen_loky" in Path(f"/proc/{child}/cmdline").read_bytes():
                            os.kill(child, signal.SIGKILL)
            return super().forward(batch)

    network = Murderer(room=4)
    monkeypatch.setattr(blocks, "load", lambda recipe: network)
    device = on_device(replace(recipe, batch=4))
    make(images / "train", tmp_path / "cache", device, 2)
    assert "a worker died" in capsys.readouterr().err
    make(images / "train", tmp_path / "quiet", device)
    assert content(tmp_path / "cache") == content(tmp_path / "quiet")


DRIVER = """
import sys
from preprocess import __main__ as program
class OnDevice(program.Recipe):
    on_device = True
program.Recipe = lambda *given: OnDevice("u2netp", (("side", 32),), 32)
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
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in errors
    assert "the same command continues" in errors
    assert 0 < len(list(folder.glob("shard-*.h5"))) < 20 and not list(folder.glob("*.tmp"))
    assert subprocess.run(command, capture_output=True, env=environment).returncode == 0
    whole = make(images / "train", tmp_path / "whole", replace(recipe, batch=4))
    assert content(folder) == content(whole)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("u2net", "no weights for u2net: put u2net.pth into $DILO_WEIGHTS"),
        ("u2netp --weights {few}/0.png", "0.png: not a file of weights that can be loaded"),
        ("rbd --device cuda", "--device is for networks (basnet"),
        ("u2netp --weights {weights} --batch 0", "--batch 0: must be 1 to"),
        ("u2netp --weights {weights} --device cuda --dask tcp://x:1", "--part"),
        pytest.param(
            "u2netp --weights {weights} --device cuda",
            "error: --device cuda: ",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here"),
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(few, recipe, tmp_path, arguments, message):
    environment = {**os.environ, "TORCH_HOME": str(tmp_path), "DILO_WEIGHTS": ""}
    options = arguments.format(few=few, weights=recipe.weights).split()
    command = [sys.executable, "-m", "preprocess", few, tmp_path / "out", "--estimator", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TREE, env=environment)
    assert message in one_line(done) and len(done.stderr.splitlines()) == 1
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
