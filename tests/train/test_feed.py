"""Workers that die, precision, torch.compile; the trainer on a GPU, alone and under NCCL."""

import os
import tempfile
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from data.cache.shard import CacheError
from data.cli import UsageError
from tests.train.runs import config, losses, together
from train.checkpoint import newest
from train.loop import train
from train.methods import METHODS
from train.workers import Loader

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CHANGES = [{}, {"background": "swap"}, {"splits": 8}, {"symmetric": True}, {"precision": "fp32"}]
CHANGES += [{"batch_negatives": True, "head_norm": True}, {"method": "simclr"}, {"method": "byol"}]
CHANGES += [{"method": "instdisc", "negatives": 16}]
COMPILED = pytest.param({"compile": True}, marks=pytest.mark.slow)
TWICE = "failed twice at batch"
ERRORS = ["^shard: is missing$", f"{TWICE} .*lower --workers", f"{TWICE} 1 .*requires_grad"]


class Failing(Dataset):
    """Batch 1 raises an error, the worker of 2 dies of it, 3 cannot be handed over."""

    def __getitems__(self, items: list[int]) -> torch.Tensor:
        if items == [1]:
            raise CacheError("shard: is missing")
        if items == [2]:
            os._exit(9)
        return torch.ones(1, requires_grad=items == [3]) + items[0]


@pytest.mark.parametrize(("item", "message"), [*enumerate(ERRORS, 1)])
def test_a_workers_error_is_one_line_here(tmp_path, monkeypatch, item, message):
    """Also where the temporary folder's name is too long for a socket."""
    (tmp_path / ("x" * 80)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 80)))
    with pytest.raises(UsageError, match=message):
        list(Loader(Failing(), [[0], [item], [4]], workers=1))


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_networks_have_float32_losses_near_float32s(method):
    settings = config(Path(), "none", Path(), method=method, splits=1, width=8, negatives=16)
    images = torch.randn(2, 16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    values = []
    for half in (False, True):
        torch.manual_seed(0)
        model = settings.method.make(settings, 64)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss, _ = model(list(images)[: settings.method.VIEWS], 0, torch.arange(16))
        assert loss.dtype == torch.float32
        values.append(loss.item())
    assert values[0] != values[1] and values[1] == pytest.approx(values[0], rel=0.02)


@pytest.mark.slow
def test_a_compiled_run_is_the_run_and_may_go_on_without(images, truth_cache, tmp_path):
    # a single network: compiling one takes a minute
    one = {"epochs": 1, "method": "instdisc", "negatives": 16}
    train(config(images, truth_cache, tmp_path / "plain", **one))
    train(config(images, truth_cache, tmp_path / "compiled", compile=True, **one), stop_at=3)
    assert set(newest(tmp_path / "compiled")["model"]) == set(newest(tmp_path / "plain")["model"])
    train(config(images, truth_cache, tmp_path / "compiled", **one))
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), abs=2e-3)


@pytest.fixture
def run(images, truth_cache, tmp_path):
    def call(name: str, **changes: object) -> list[float]:
        changes = {"epochs": 1, "device": "cuda", "workers": 2} | changes
        train(config(images, truth_cache, tmp_path / name, **changes))
        return losses(tmp_path / name)

    return call


@GPU
@pytest.mark.parametrize("changes", [*CHANGES, COMPILED], ids=str)
def test_the_losses_of_a_cpu_within_what_bfloat16_costs(run, changes):
    expected = run("cpu", **changes | {"device": "cpu", "compile": False})
    tolerance = 5e-3 if changes == {"precision": "fp32"} else 0.05
    assert run("cuda", **changes) == pytest.approx(expected, rel=tolerance)


@GPU
def test_under_torchrun_with_nccl(run, images, truth_cache, tmp_path):
    other = config(images, truth_cache, tmp_path / "two", epochs=1)
    done = together(other, processes=1)
    assert done.returncode == 0, done.stderr[-2000:]
    assert losses(tmp_path / "two") == pytest.approx(run("one"), rel=0.02)
    many = together(other, processes=torch.cuda.device_count() + 1)
    assert many.returncode and "lower torchrun's --nproc-per-node" in many.stderr
