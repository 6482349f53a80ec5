"""Two processes under gloo: the run that one process makes, resumed and stopped the same way."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.train.runs import TORCHRUN, command_line, config, losses, together
from train import checkpoint
from train.loop import train


# SyncBN over both processes; a BatchNorm of its own for each
@pytest.mark.parametrize("splits", [1, 2])
def test_two_processes_make_the_run_of_one(images, truth_cache, tmp_path, splits):
    # a small rate: at a large one, the last digits in which two orders of summation differ grow
    # tenfold every two steps
    changes = {"splits": splits, "epochs": 2, "lr": 0.003, "batch_negatives": splits == 1}
    train(config(images, truth_cache, tmp_path / "one", **changes))
    other = config(images, truth_cache, tmp_path / "two", **changes)
    done = together(other, *(["--batch-negatives"] if splits == 1 else []))
    assert done.returncode == 0, done.stderr[-2000:]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    one, two = (checkpoint.newest(tmp_path / name)["model"] for name in ("one", "two"))
    assert torch.allclose(one["queue"], two["queue"], atol=1e-3)
    assert torch.equal(one["pointer"], two["pointer"])
    # evaluations use the statistics, training does not
    statistics = [name for name in one if "running" in name]
    assert statistics
    for name in statistics:
        assert torch.allclose(one[name], two[name], rtol=0.02, atol=0.01), name
    # and one process continues what two began
    (tmp_path / "two" / "backbone.pt").unlink()
    checkpoint.steps(tmp_path / "two")[-1].unlink()
    assert train(other) is True
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


def test_one_process_that_fails_ends_the_job_with_its_error(images, truth_cache, tmp_path):
    script = tmp_path / "failing.py"
    script.write_text(f"""
import sys; sys.path.insert(0, {str(Path.cwd())!r})
from train import distributed, loop
from train.command import parse
before = loop.learning_rate
def failing(config, step, steps_per_epoch):
    if step == 2 and distributed.rank() == 1:
        raise RuntimeError("the second process has had enough")
    return before(config, step, steps_per_epoch)
loop.learning_rate = failing
loop.train(parse(sys.argv[1:]))
""")
    settings = config(images, truth_cache, tmp_path / "run")
    began = time.monotonic()
    done = subprocess.run(
        [*TORCHRUN, "2", str(script), *command_line(settings)[3:]],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode != 0 and "the second process has had enough" in done.stderr
    assert time.monotonic() - began < 120 and not (tmp_path / "run" / "backbone.pt").exists()


@pytest.mark.slow
def test_settings_that_do_not_fit_two_processes(images, truth_cache, tmp_path):
    for changes, message in (
        ({"batch": 15, "splits": 1}, "--batch 15 does not divide among 2 processes"),
        ({"batch": 18, "splits": 3}, "--splits 3 BatchNorm groups do not divide among 2"),
    ):
        done = together(config(images, truth_cache, tmp_path / "run", **changes))
        assert done.returncode != 0 and f"error: {message}" in done.stderr, done.stderr[-2000:]


def synchronised(rank: int, folder: str) -> None:
    """One of two processes: GlooBatchNorm on half of a batch, against BatchNorm on all of it."""
    import torch.distributed as dist

    from train.batch_norm import spread_batch_norm
    from train.distributed import gather

    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(0)
    x = torch.randn(8, 5, 3, 3) * 3 + 1
    plain = nn.BatchNorm2d(5)
    ours = spread_batch_norm(nn.Sequential(nn.BatchNorm2d(5)), 1, torch.device("cpu"))
    whole, half = x.clone().requires_grad_(), x[4 * rank : 4 * rank + 4].clone().requires_grad_()
    for model in (plain, ours[0]):
        with torch.no_grad():
            model.weight.copy_(torch.arange(1.0, 6))
    (plain(whole) ** 3).sum().backward()
    out = ours(half)
    (out**3).sum().backward()
    reference = nn.BatchNorm2d(5)
    reference.load_state_dict(ours[0].state_dict())
    own = whole.grad[4 * rank : 4 * rank + 4]
    result = {
        "out": torch.allclose(gather(out.detach()), plain(x).detach(), atol=1e-4),
        "gradient": torch.allclose(half.grad, own, rtol=1e-3, atol=1e-3),
        "mean": torch.allclose(ours[0].running_mean, plain.running_mean, atol=0.2),
        "eval": torch.allclose(ours.eval()(x), reference.eval()(x), atol=1e-5),
    }
    Path(folder, f"{rank}.json").write_text(json.dumps(result))
    dist.destroy_process_group()


def test_synchronised_batch_norm_is_batch_norm_of_the_whole_batch(tmp_path):
    torch.multiprocessing.spawn(synchronised, (str(tmp_path),), nprocs=2)
    for rank in range(2):
        result = json.loads((tmp_path / f"{rank}.json").read_text())
        assert all(result.values()), result
