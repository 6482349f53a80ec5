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
    """Ten images, and one that cannot be read."""
    root = tmp_path_factory.mktemp("few")
    for i, path in enumerate(sorted((images / "train").rglob("*.png"))[:10]):
        (root / f"{i}.png").write_bytes(path.read_bytes())
    (root / "4.png").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def cache(few, recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "c"
    build(str(few), str(folder), recipe, shard_size=4)
    return folder


class OnDevice(Recipe):
    """The driver computes, as it does for a GPU; the device is the CPU."""

    on_device = True


def on_device(recipe: Recipe) -> OnDevice:
    return OnDevice(**vars(recipe))


def test_masks_are_the_networks(few, recipe, cache):
    reader, network = Cache(cache), blocks.load(recipe)
    for row, path in enumerate(reader.paths.tolist()):
        if path == b"4.png":
            assert reader.status[row] == STATUS["unreadable"] and not reader.mask(row).any()
            continue
        image = cv2.imread(str(few / path.decode()))[..., ::-1]
        expected = cv2.resize(network.working(image), (32, 32)) * 255
        assert np.abs(reader.mask(row) - expected).max() <= 2
    plain = blocks.compute_block(open_images(str(few)), Recipe("centre", (), 32))
    for name in ("path", "size", "digest", "status"):
        assert np.array_equal(reader.column(name), plain[name].astype(reader.column(name).dtype))
    assert reader.column("quality/coverage")[0] == pytest.approx(
        reader.mask(0).mean() / 255, abs=0.01
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_bytes_by_workers_and_by_the_driver(few, recipe, cache, tmp_path, workers):
    build(str(few), str(tmp_path / "workers"), recipe, shard_size=4, workers=workers)
    assert content(tmp_path / "workers") == content(cache)
    build(str(few), str(tmp_path / "driver"), on_device(recipe), shard_size=4, workers=workers)
    assert content(tmp_path / "driver") == content(cache)


def test_another_batch_moves_a_mask_by_two_levels_at_most(few, recipe, cache):
    images = open_images(str(few))
    for batch in (1, 5, 64):
        rows = batches.compute_block(images, replace(recipe, batch=batch))
        there = np.stack([Cache(cache).mask(i) for i in range(10)]).astype(int)
        assert np.abs(rows["mask"] - there).max() <= 2


def test_refined_maps_are_those_of_the_estimator_alone(few, recipe):
    images, refined = (
        open_images(str(few)),
        replace(recipe, parameters=(("refine", "guided"), ("side", 32))),
    )
    pictures = [
        cv2.imread(str(few / p.decode()))[..., ::-1] for p in images.paths.tolist() if p != b"4.png"
    ]
    expected = [
        cv2.resize(m, (32, 32), interpolation=cv2.INTER_AREA)
        for m in refined.load().batch(pictures)
    ]
    for kind in (refined, on_device(refined)):
        rows = batches.Batches(kind.load(), kind).rows(batches.prepare_block(images, kind))
        assert np.abs(rows["mask"][rows["status"] == 0] - 255 * np.stack(expected)).max() <= 2
    plain = batches.compute_block(images, recipe)
    assert (
        not np.array_equal(plain["mask"], rows["mask"]) and refined.identity() != recipe.identity()
    )


def test_other_weights_are_another_cache(few, recipe, cache, tmp_path):
    state = torch.load(recipe.weights, weights_only=True)
    state["outconv.bias"] += 1
    torch.save(state, tmp_path / "other.pth")
    other = replace(recipe, weights=str(tmp_path / "other.pth"))
    with pytest.raises(
        UsageError, match=r"made with other parameters \(weights [0-9a-f]{64} -> [0-9a-f]{64}\)"
    ):
        build(str(few), str(cache), other, shard_size=4)
    assert other.identity() == {**recipe.identity(), "weights": other.identity()["weights"]}
    assert replace(recipe, precision="bf16").identity()["parameters"]["precision"] == "bf16"
    assert replace(recipe, batch=7).identity() == recipe.identity()
    copy = tmp_path / "copy.pth"
    copy.write_bytes(Path(recipe.weights).read_bytes())
    assert (
        build(str(few), str(cache), replace(recipe, weights=str(copy)), shard_size=4).computed == 0
    )


def test_weights_that_change_on_the_way_stop_the_run(recipe):
    with pytest.raises(UsageError, match="changed while it was in use"):
        replace(recipe, sha256="0" * 64).load()


class Small:
    """An estimator whose device has memory for `room` images; the map says how bright the image
    is."""

    def __init__(self, room):
        self.room, self.seen = room, []

    def forward(self, batch):
        self.seen.append(len(batch))
        if len(batch) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return batch.mean((1, 2, 3), dtype=np.float32)[:, None, None] / 255

    def finish(self, output, thumbnail=None):
        return np.full((4, 4), output[0, 0], np.float32)


@pytest.mark.parametrize("as_driver", [False, True])
def test_out_of_memory_halves_the_batch_and_says_so(few, recipe, monkeypatch, as_driver, capsys):
    network, told = Small(room=2), []
    monkeypatch.setattr(blocks, "load", lambda recipe: network)
    batches._batches.cache_clear()
    images, recipe = open_images(str(few)), replace(recipe, batch=8)
    if as_driver:
        prepared = iter([batches.prepare_block(images, recipe)])
        rows = next(
            batches.infer(
                prepared, on_device(recipe), lambda what, **values: told.append((what, values))
            )
        )
        assert told == [("out of memory", {"batch": 4}), ("out of memory", {"batch": 2})]
    else:
        rows = batches.compute_block(images, recipe)
        assert "batches of 4" in (said := capsys.readouterr().err) and "batches of 2" in said
    batches._batches.cache_clear()
    assert network.seen == [8, 4, 2, 2, 2, 2, 2]  # nine images: the last batch is filled up
    for i, path in enumerate(images.paths.tolist()):
        image = cv2.imread(str(few / path.decode()))
        assert rows["mask"][i].mean() == pytest.approx(0 if image is None else image.mean(), abs=1)


def test_a_device_without_memory_for_one_image_is_one_line(few, recipe):
    network = batches.Batches(
        Small(room=0), on_device(replace(recipe, batch=2)), lambda *_, **__: None
    )
    with pytest.raises(UsageError, match="has not the memory for one image of u2netp"):
        network.rows(batches.prepare_block(open_images(str(few)), recipe))


def test_a_map_that_is_not_finite_costs_one_row(few, recipe):
    class Broken(Small):
        def finish(self, output, thumbnail=None):
            if not self.seen or self.seen == [3]:
                raise FloatingPointError("boom")
            return np.full((4, 4), np.nan if len(self.seen) == 2 else 0.5, np.float32)

    rows = batches.Batches(Broken(9), recipe).rows(
        batches.prepare_block(open_images(str(few)), recipe)
    )
    status = (
        [STATUS["estimator"]] * 4 + [STATUS["unreadable"]] + [STATUS["estimator"]] * 2 + [0] * 3
    )
    assert (
        rows["status"].tolist() == status
        and (rows["mask"][7:] == 128).all()
        and not rows["mask"][:7].any()
    )


@pytest.mark.slow
def test_workers_that_die_while_they_decode_ahead_change_no_byte(
    images, recipe, tmp_path, monkeypatch, capsys
):
    class Murderer(Small):
        def forward(self, batch):
            if not self.seen:
                children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
                for child in [int(pid) for file in children for pid in file.read_text().split()]:
                    if b"popen_loky" in Path(f"/proc/{child}/cmdline").read_bytes():
                        os.kill(child, signal.SIGKILL)
                        self.killed = True
            return super().forward(batch)

    network = Murderer(room=4)
    network.version, network.weights, network.parameters = 1, "0" * 64, {}
    monkeypatch.setattr(blocks, "load", lambda recipe: network)
    one = on_device(replace(recipe, batch=4))
    build(str(images / "train"), str(tmp_path / "cache"), one, shard_size=4, workers=2)
    assert network.killed and "a worker died" in capsys.readouterr().err
    build(str(images / "train"), str(tmp_path / "quiet"), one, shard_size=4, workers=0)
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
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_the_driver_computes_it_continues_to_the_same_bytes(
    images, recipe, tmp_path, number
):
    (tmp_path / "driver.py").write_text(DRIVER)
    folder = tmp_path / "cache"
    options = ["--estimator", "u2netp", "--shard-size", "4", "--workers", "1", "--weights"]
    command = [sys.executable, tmp_path / "driver.py", images / "train", folder, *options]
    command.append(recipe.weights)
    environment = {**os.environ, "PYTHONPATH": str(TREE)}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )
    wait_for(lambda: list(folder.glob("shard-*.h5")), process)
    process.send_signal(number)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number and "Traceback" not in errors
    assert "the same command continues" in errors
    assert 0 < len(list(folder.glob("shard-*.h5"))) < 20 and not list(folder.glob("*.tmp"))
    assert subprocess.run(command, capture_output=True, env=environment).returncode == 0
    build(str(images / "train"), str(tmp_path / "whole"), replace(recipe, batch=4), shard_size=4)
    assert content(folder) == content(tmp_path / "whole")


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
    for workers in (1, 3):
        build(str(few), str(tmp_path / f"{workers}"), gpu, shard_size=4, workers=workers)
    assert content(tmp_path / "1") == content(tmp_path / "3")
    here, there = (
        np.stack([c.mask(i) for i in range(len(c))]).astype(int)
        for c in (Cache(cache), Cache(tmp_path / "1"))
    )
    apart = np.abs(here - there)
    assert apart.max() <= 2 if precision == "fp32" else apart.mean() < 16
