"""The trainer on a GPU against itself on a CPU: every method, stopped and continued, compiled, and
under NCCL."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.train.runs import command_line, config, losses
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
        train(
            config(
                images,
                truth_cache,
                tmp_path / device,
                epochs=1,
                device=device,
                workers=2,
                **changes,
            )
        )
    assert losses(tmp_path / "cuda") == pytest.approx(losses(tmp_path / "cpu"), rel=0.05)


def test_float32_is_nearer(images, truth_cache, tmp_path):
    found = {}
    for name, device, precision in (
        ("cpu", "cpu", "auto"),
        ("fp32", "cuda", "fp32"),
        ("bf16", "cuda", "auto"),
    ):
        train(
            config(
                images,
                truth_cache,
                tmp_path / name,
                epochs=2,
                device=device,
                precision=precision,
                lr=0.003,
            )
        )
        found[name] = np.array(losses(tmp_path / name))
    assert found["fp32"] == pytest.approx(found["cpu"], rel=5e-3)
    assert abs(found["fp32"] - found["cpu"]).max() < abs(found["bf16"] - found["cpu"]).max()


def test_stopped_and_continued_is_the_run(images, truth_cache, tmp_path):
    (tmp_path / "train").symlink_to(images / "train")
    (tmp_path / "val").symlink_to(images / "train")
    runs = {
        name: config(
            images,
            truth_cache,
            tmp_path / name,
            device="cuda",
            workers=2,
            lr=0.003,
            knn=str(tmp_path),
            knn_every=1,
        )
        for name in ("whole", "parts")
    }
    train(runs["whole"])
    assert train(runs["parts"], stop_at=7) is False
    assert train(runs["parts"]) is True
    lines = {
        name: [
            json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()
        ]
        for name in runs
    }
    for key, tolerance in (("loss", 0.1), ("knn", 0.2)):
        whole, parts = ([line[key] for line in lines[name] if key in line] for name in runs)
        assert len(whole) == len(parts) and parts == pytest.approx(whole, abs=tolerance)
    assert all(0 < line["memory_gb"] < 2 for line in lines["whole"] if "memory_gb" in line)
    assert all(
        tensor.device.type == "cpu" for tensor in newest(tmp_path / "whole")["model"].values()
    )


@pytest.mark.slow
def test_compiled(images, truth_cache, tmp_path):
    for name in ("plain", "compiled"):
        train(
            config(
                images,
                truth_cache,
                tmp_path / name,
                epochs=1,
                device="cuda",
                compile=name == "compiled",
            )
        )
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), rel=0.02)


def test_under_torchrun_with_nccl(images, truth_cache, tmp_path):
    one = config(images, truth_cache, tmp_path / "one", epochs=1, device="cuda")
    train(one)
    other = config(images, truth_cache, tmp_path / "two", epochs=1)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "1",
            *command_line(other)[1:],
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=0.02)
    many = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(torch.cuda.device_count() + 1),
            *command_line(other)[1:],
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert many.returncode and "lower torchrun's --nproc-per-node" in many.stderr
