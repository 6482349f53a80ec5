"""Two processes under gloo have the losses, gradients and memories of one with the same batch."""

import os
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.conftest import call, children, refused, start
from tests.train.runs import TORCHRUN, Flat, command_line, config, losses, together, wait_for_steps
from train import checkpoint, distributed, launch
from train.distributed import gather, local_part, rank, world
from train.loop import train
from train.methods import byol, instdisc, moco, simclr

IMAGES, BATCH, STEPS = 24, 8, 3
MOCO = {"dim": 4, "queue": 21, "momentum": 0.9}  # a queue that does not divide by the batch
SETTINGS = {
    "instdisc": instdisc.Settings(dim=4, negatives=5, head="linear"),
    "moco v1": moco.Settings(**MOCO, temperature=0.07, head="linear"),
    "moco, symmetric": moco.Settings(**MOCO, symmetric=True),
    "moco, batch negatives": moco.Settings(**MOCO, batch_negatives=True),
    "moco, swap": moco.Settings(**MOCO),
    "simclr": simclr.Settings(dim=4),
    "simclr, swap": simclr.Settings(dim=4),
    "byol": byol.Settings(dim=4, momentum=0.9),
}


def make(settings) -> nn.Module:
    torch.manual_seed(0)
    if settings.method == "instdisc":
        return instdisc.InstDisc(Flat(), settings, IMAGES)
    if settings.method == "byol":
        return byol.BYOL(Flat(), settings, STEPS)
    return {"moco": moco.MoCo, "simclr": simclr.SimCLR}[settings.method](Flat(), settings)


def run(name: str) -> dict:
    method = make(SETTINGS[name])
    model = DistributedDataParallel(method, broadcast_buffers=False) if world() > 1 else method
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer, steps = torch.optim.SGD(trained, 0.5, momentum=0.9), []
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(100 + step)
        views = [local_part(v) for v in torch.randn(3, BATCH, 3, 2, 2, generator=generator)]
        index = local_part(torch.randperm(IMAGES, generator=generator)[:BATCH])
        negative = views[2] if name.endswith("swap") else None
        result = model(views[: SETTINGS[name].VIEWS], step, index, negative)
        optimizer.zero_grad()
        result[0].backward()
        optimizer.step()
        means = [gather(value.detach()[None]).mean() for value in result]
        steps.append([*means, *(p.grad.clone() for p in trained)])
    return {"steps": steps, "state": method.state_dict()}


def child(number: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=number, world_size=2)
    torch.save({name: run(name) for name in SETTINGS}, f"{folder}/{rank()}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(child, (str(folder),), nprocs=2)
    return [torch.load(Path(folder, f"{number}.pt"), weights_only=True) for number in range(2)]


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_are_one(two, name):
    one = run(name)
    assert all(gradient.any() for step in one["steps"] for gradient in step[2:])
    torch.testing.assert_close(two[0][name], one, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(two[0][name]["state"], two[1][name]["state"], rtol=0, atol=0)


# SyncBN over both processes; a BatchNorm of its own for each
@pytest.mark.parametrize("splits", [1, 2])
def test_two_processes_make_the_run_of_one(images, truth_cache, tmp_path, splits):
    # at a large rate the last digits, which the order of summation changes, grow at every step
    changes = {"splits": splits, "epochs": 2, "lr": 0.003, "batch_negatives": splits == 1}
    train(config(images, truth_cache, tmp_path / "one", **changes))
    other = config(images, truth_cache, tmp_path / "two", **changes)
    done = together(other, *(["--batch-negatives"] if splits == 1 else []))
    assert done.returncode == 0, done.stderr[-2000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    one, two = (checkpoint.newest(tmp_path / name)["model"] for name in ("one", "two"))
    # evaluations use the running statistics, training does not
    for name in ("queue", "pointer", *(name for name in one if "running" in name)):
        assert torch.allclose(one[name], two[name], rtol=0.02, atol=0.01), name
    # one process continues what two began
    (tmp_path / "two" / "backbone.pt").unlink()
    checkpoint.steps(tmp_path / "two")[-1].unlink()
    assert train(other) is True
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def test_one_process_that_is_killed_ends_the_job(images, truth_cache, tmp_path):
    settings = config(images, truth_cache, tmp_path / "run", epochs=400)
    job = start([*TORCHRUN, 2, *command_line(settings)[1:]])
    wait_for_steps(tmp_path / "run", 2)
    os.kill(children(job.pid)[-1], signal.SIGKILL)
    errors = job.communicate(timeout=120)[1]
    assert job.returncode and "SIGKILL" in errors
    assert not (tmp_path / "run" / "backbone.pt").exists()


def test_what_no_launcher_is_given_or_makes_is_one_line(monkeypatch, capfd):
    with pytest.raises(SystemExit, match="2"):
        call(launch.main, "--nproc-per-node", "0", "-m", "train")
    assert "error: torchrun: nodes and processes must be at least 1" in capfd.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert "set without RANK, MASTER_ADDR, MASTER_PORT; start" in refused(distributed.start, "cpu")
