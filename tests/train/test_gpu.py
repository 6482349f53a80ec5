"""The trainer on a GPU against itself on a CPU: every method, stopped and continued, compiled, and
under NCCL."""

import numpy as np
import pytest
import torch

from tests.train.runs import config, log, losses, together
from train.loop import train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def run(images, truth_cache, tmp_path):
    """(name, changes) -> the losses of a run on the GPU."""

    def call(name: str, **changes: object) -> list[float]:
        changes = {"epochs": 1, "device": "cuda", "workers": 2} | changes
        train(config(images, truth_cache, tmp_path / name, **changes))
        return losses(tmp_path / name)

    return call


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
def test_the_losses_of_a_cpu_within_what_bfloat16_costs(run, changes):
    """Pinned batches that are copied ahead, colours on the GPU, bfloat16."""
    expected = run("cpu", device="cpu", **changes)
    assert run("cuda", **changes) == pytest.approx(expected, rel=0.05)


def test_float32_is_nearer(run):
    cpu, single, half = (
        np.array(run(f"{device} {precision}", device=device, precision=precision, lr=0.003))
        for device, precision in (("cpu", "auto"), ("cuda", "fp32"), ("cuda", "auto"))
    )
    assert single == pytest.approx(cpu, rel=5e-3)
    assert abs(single - cpu).max() < abs(half - cpu).max()


def test_stopped_and_continued_is_the_run(images, truth_cache, tmp_path):
    for part in ("train", "val"):
        (tmp_path / part).symlink_to(images / "train")
    settings = {"device": "cuda", "lr": 0.003, "knn": str(tmp_path), "knn_every": 1}
    for name, stops in (("whole", [None]), ("parts", [7, None])):
        for stop in stops:
            train(config(images, truth_cache, tmp_path / name, **settings), stop_at=stop)
    lines = [log(tmp_path / name) for name in ("whole", "parts")]
    for key, tolerance in (("loss", 0.1), ("knn", 0.2)):
        whole, parts = ([line[key] for line in run if key in line] for run in lines)
        assert parts == pytest.approx(whole, abs=tolerance)
    assert all(0 < line["memory_gb"] < 2 for line in lines[0] if "memory_gb" in line)


@pytest.mark.slow
def test_compiled(run):
    assert run("compiled", compile=True) == pytest.approx(run("plain"), rel=0.02)


def test_under_torchrun_with_nccl(run, images, truth_cache, tmp_path):
    other = config(images, truth_cache, tmp_path / "two", epochs=1)
    done = together(other, processes=1)
    assert done.returncode == 0, done.stderr[-2000:]
    assert losses(tmp_path / "two") == pytest.approx(run("one"), rel=0.02)
    many = together(other, processes=torch.cuda.device_count() + 1)
    assert many.returncode and "lower torchrun's --nproc-per-node" in many.stderr
