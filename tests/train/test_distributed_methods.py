"""Every method in two gloo processes: losses, gradients and memories of one process with the same
global batch."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.train.runs import Flat
from train.distributed import gather, rank, world
from train.methods import byol, instdisc, moco, simclr

IMAGES, BATCH, STEPS = 24, 8, 3


MOCO = {"dim": 4, "queue": 21, "momentum": 0.9}  # a queue that does not divide by the batch
SETTINGS = {
    "instdisc": instdisc.Settings(dim=4, negatives=5, head="linear"),
    "moco": moco.Settings(**MOCO),
    "moco v1": moco.Settings(**MOCO, temperature=0.07, head="linear"),
    "moco, symmetric": moco.Settings(**MOCO, symmetric=True),
    "moco, batch negatives": moco.Settings(**MOCO, batch_negatives=True),
    "moco, swap": moco.Settings(**MOCO),
    "simclr": simclr.Settings(dim=4),
    "simclr, swap": simclr.Settings(dim=4),
    "byol": byol.Settings(dim=4, momentum=0.9),
}


def make(name: str) -> nn.Module:
    settings = SETTINGS[name]
    torch.manual_seed(0)
    if settings.method == "instdisc":
        return instdisc.InstDisc(Flat(), settings, IMAGES)
    if settings.method == "byol":
        return byol.BYOL(Flat(), settings, STEPS)
    return {"moco": moco.MoCo, "simclr": simclr.SimCLR}[settings.method](Flat(), settings)


def run(name: str) -> dict:
    """Three steps on this process's part of each global batch: losses, accuracies, gradients and
    the final state."""
    method = make(name)
    model = DistributedDataParallel(method, broadcast_buffers=False) if world() > 1 else method
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.5, momentum=0.9)
    results, part = [], slice(rank() * BATCH // world(), (rank() + 1) * BATCH // world())
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(100 + step)
        views = torch.randn(3, BATCH, 3, 2, 2, generator=generator)[:, part]
        index = torch.randperm(IMAGES, generator=generator)[:BATCH][part]
        negative = views[2] if name.endswith("swap") else None
        loss, accuracy = model(list(views[: SETTINGS[name].VIEWS]), step, index, negative)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        gradients = {n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}
        means = {"loss": loss.detach(), "accuracy": accuracy}
        results.append({k: gather(v[None]).mean() for k, v in means.items()} | gradients)
    return {"steps": results, "state": method.state_dict()}


def child(number: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=number, world_size=2
    )
    results = {name: run(name) for name in SETTINGS} | {"keys": what_the_key_encoder_sees()}
    torch.save(results, f"{folder}/{number}.pt")
    dist.destroy_process_group()


def what_the_key_encoder_sees() -> dict:
    """Numbers of the images that this process's queries and keys are encoded among."""
    torch.manual_seed(0)
    model, seen = moco.MoCo(Flat(), moco.Settings(dim=4, queue=16)), {"query": [], "key": []}
    for name in seen:
        getattr(model, name).register_forward_pre_hook(
            lambda _, x, name=name: seen[name].append(x[0][:, 0, 0, 0])
        )
    numbers = torch.arange(16.0)[rank() * 8 : rank() * 8 + 8]
    views = numbers[:, None, None, None].expand(8, 3, 2, 2)
    for step in range(2):
        model([views, views], step)
    return seen


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict]:
    """What each of the two processes found."""
    folder = tmp_path_factory.mktemp("two")
    torch.multiprocessing.spawn(child, (str(folder),), nprocs=2)
    return [torch.load(Path(folder, f"{number}.pt"), weights_only=True) for number in range(2)]


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_are_one(two, name):
    one = run(name)
    for process in two:
        for ours, theirs in zip(one["steps"], process[name]["steps"], strict=True):
            assert ours.keys() == theirs.keys()
            assert theirs["loss"].item() == pytest.approx(ours["loss"].item(), rel=1e-5)
            assert theirs["accuracy"].item() == pytest.approx(ours["accuracy"].item())
            for key in ours.keys() - {"loss", "accuracy"}:
                assert ours[key].abs().max() > 0
                assert torch.allclose(theirs[key], ours[key], rtol=1e-4, atol=1e-6), key
        for key, value in one["state"].items():
            other = process[name]["state"][key].float()
            assert torch.allclose(other, value.float(), rtol=1e-4, atol=1e-5), key
    for key, value in two[0][name]["state"].items():  # and they never drift apart
        assert torch.equal(value, two[1][name]["state"][key]), key


def test_keys_are_really_shuffled_across_processes(two):
    own = [set(range(8)), set(range(8, 16))]
    for step in range(2):
        keys = [set(process["keys"]["key"][step].int().tolist()) for process in two]
        assert [set(process["keys"]["query"][step].int().tolist()) for process in two] == own
        assert keys[0] | keys[1] == own[0] | own[1] and len(keys[0]) == len(keys[1]) == 8
        # near half are the other's
        assert all(2 <= len(k & o) <= 6 for k, o in zip(keys, own, strict=True))
    first, second = (two[0]["keys"]["key"][step].tolist() for step in range(2))
    assert first != second
