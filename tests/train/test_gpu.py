"""The trainer on a GPU against itself on a CPU: every method, stopped and continued, compiled, and
under NCCL."""

import numpy as np
import pytest
import torch

from tests.train.runs import config, log, losses, together
from train.checkpoint import newest
from train.loop import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"background": "swap"},
        {"splits": 8},
        {"symmetric": True},
        {"batch_negatives": True, "head_norm": True},
        {"method": "simclr"},
        {"method": "byol"},
        {"method": "instdisc", "negatives": 16},
    ],
    ids=lambda c: "-".join(map(str, c.values())) or "moco",
)
def test_the_losses_of_a_cpu_within_what_bfloat16_costs(images, truth_cache, tmp_path, changes):
    """Pinned batches that are copied ahead, colours on the GPU, bfloat16."""
    for device in ("cpu", "cuda"):
        run = {"epochs": 1, "device": device, "workers": 2} | changes
        train(config(images, truth_cache, tmp_path / device, **run))
    assert losses(tmp_path / "cuda") == pytest.approx(losses(tmp_path / "cpu"), rel=0.05)


def test_float32_is_nearer(images, truth_cache, tmp_path):
    found = {}
    for name, device, precision in (
        ("cpu", "cpu", "auto"),
        ("fp32", "cuda", "fp32"),
        ("bf16", "cuda", "auto"),
    ):
        run = {"epochs": 2, "device": device, "precision": precision, "lr": 0.003}
        train(config(images, truth_cache, tmp_path / name, **run))
        found[name] = np.array(losses(tmp_path / name))
    assert found["fp32"] == pytest.approx(found["cpu"], rel=5e-3)
    assert abs(found["fp32"] - found["cpu"]).max() < abs(found["bf16"] - found["cpu"]).max()


def test_stopped_and_continued_is_the_run(images, truth_cache, tmp_path):
    (tmp_path / "train").symlink_to(images / "train")
    (tmp_path / "val").symlink_to(images / "train")
    online = {"knn": str(tmp_path), "knn_every": 1}
    settings = {"device": "cuda", "workers": 2, "lr": 0.003} | online
    runs = {
        name: config(images, truth_cache, tmp_path / name, **settings)
        for name in ("whole", "parts")
    }
    train(runs["whole"])
    assert train(runs["parts"], stop_at=7) is False
    assert train(runs["parts"]) is True
    lines = {name: log(tmp_path / name) for name in runs}
    for key, tolerance in (("loss", 0.1), ("knn", 0.2)):
        whole, parts = ([line[key] for line in lines[name] if key in line] for name in runs)
        assert len(whole) == len(parts) and parts == pytest.approx(whole, abs=tolerance)
    assert all(0 < line["memory_gb"] < 2 for line in lines["whole"] if "memory_gb" in line)
    state = newest(tmp_path / "whole")["model"]
    assert all(tensor.device.type == "cpu" for tensor in state.values())


@pytest.mark.slow
def test_compiled(images, truth_cache, tmp_path):
    for name in ("plain", "compiled"):
        run = {"epochs": 1, "device": "cuda", "compile": name == "compiled"}
        train(config(images, truth_cache, tmp_path / name, **run))
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=0.02)


def test_under_torchrun_with_nccl(images, truth_cache, tmp_path):
    one = config(images, truth_cache, tmp_path / "one", epochs=1, device="cuda")
    train(one)
    other = config(images, truth_cache, tmp_path / "two", epochs=1)
    done = together(other, processes=1)
    assert done.returncode == 0, done.stderr[-2000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=0.02)
    many = together(other, processes=torch.cuda.device_count() + 1)
    assert many.returncode and "lower torchrun's --nproc-per-node" in many.stderr
