"""Batches to the device: prefetching, the tensors' life on two streams, precision and
torch.compile."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from tests.train.runs import config, losses
from train.checkpoint import newest
from train.feed import Feed
from train.loop import train
from train.parameters import PARAMETERS, PASTED

CPU = torch.device("cpu")


def raw(number: int, negative: bool = False) -> dict:
    batch = {
        "views": torch.full((2, 3, 8, 8, 3), number, dtype=torch.uint8),
        "parameters": torch.zeros(2, 3, PARAMETERS),
        "index": torch.full((3,), number),
        "replaced": 0,
    }
    batch["parameters"][..., PASTED] = number
    if negative:
        batch |= {
            "negative": batch["views"][0],
            "negative_parameters": batch["parameters"][0],
            "counts": torch.tensor([True, False, True]),
        }
    return batch


def test_a_cpu_takes_batches_as_they_come():
    asked = []
    made = Feed(lambda step: (asked.append(i) or raw(i) for i in range(3)), 0, CPU)
    for i in range(3):
        batch = made.next()
        made.ahead()
        assert asked == list(range(i + 1)) and batch.index.tolist() == [i] * 3
        assert len(batch.views) == 2 and batch.views[0].shape == (3, 3, 8, 8)
        assert batch.negative is None
    assert made.next() is None
    assert made.read_waited() > 0 and made.read_waited() == 0


def test_a_gpu_is_one_batch_ahead_and_no_memory_is_given_away_early(monkeypatch):
    """A stand-in for the copy stream: what is ordered when, and which tensors the step's stream
    holds on to."""
    said, held = [], []

    class Stream:
        def wait_stream(self, other):
            said.append(("waits for", other))

    copies, steps = Stream(), Stream()
    monkeypatch.setattr(
        torch.cuda, "stream", lambda stream: said.append(("copies on", stream)) or nullcontext()
    )
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: steps)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda tensor, stream: held.append((id(tensor), stream))
    )
    asked = []
    made = Feed(lambda step: (asked.append(i) or raw(i, True) for i in range(3)), 0, CPU)
    made.stream = copies
    for i in range(3):
        batch = made.next()
        assert said[-1] == ("waits for", copies) and ("copies on", copies) in said
        handed = {id(t) for t in (*batch.views, batch.index, batch.negative, batch.counts)}
        assert {t for t, stream in held if stream is steps} >= handed
        made.ahead()
        # the next one is under way before it is asked for
        assert asked == list(range(min(i + 2, 3)))
        made.ahead()  # and only one
        assert asked == list(range(min(i + 2, 3))) and batch.index.tolist() == [i] * 3
    assert made.next() is None


def test_a_loader_that_fails_is_started_again_at_its_step_and_given_up_at_the_second_failure(
    capsys,
):
    """What torch raises for a worker that was killed, or that found no room in /dev/shm."""
    starts = []

    def loader(step: int):
        starts.append(step)
        yield from (raw(i) for i in range(step, 2 if len(starts) == 1 else 3))
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    made = Feed(loader, 0, CPU)
    assert [made.next().index[0].item() for _ in range(3)] == [0, 1, 2] and not made.error
    assert made.next() is None and "pid 7" in made.error and starts == [0, 2, 3]
    assert "failed at step 2" in capsys.readouterr().err


def test_what_is_shown_of_a_batch():
    views, pasted = Feed(lambda step: [raw(1)], 0, CPU).next().preview()
    assert len(views) == 2 and pasted.tolist() == [[1] * 3] * 2
    views, pasted = Feed(lambda step: [raw(0, True)], 0, CPU).next().preview()
    assert len(views) == 3 and pasted.tolist() == [[0] * 3, [0] * 3, [1, 0, 1]]


@pytest.mark.parametrize("method", ["moco", "simclr", "byol", "instdisc"])
def test_bfloat16_networks_have_float32_losses_near_float32s(method):
    settings = config(Path(), "none", Path(), method=method, splits=1, width=8, negatives=16)
    images = torch.randn(2, 16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    images = [i.contiguous(memory_format=torch.channels_last) for i in images]
    values = []
    for half in (False, True):
        torch.manual_seed(0)
        model = settings.method.make(settings, 64).to(memory_format=torch.channels_last)
        assert model.encoder.conv1.weight.is_contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss, _ = model(images[: settings.method.VIEWS], 0, torch.arange(16))
        loss.backward()
        assert loss.dtype == torch.float32
        assert all(
            p.dtype == p.grad.dtype == torch.float32 for p in model.parameters() if p.requires_grad
        )
        values.append(loss.item())
    assert values[0] != values[1] and values[1] == pytest.approx(values[0], rel=0.02)


@pytest.mark.slow
def test_a_compiled_run_is_the_run_and_may_go_on_without(images, truth_cache, tmp_path):
    # a single network: compiling one takes a minute
    one = {"epochs": 1, "method": "instdisc", "negatives": 16}
    runs = {
        n: config(images, truth_cache, tmp_path / n, compile=n != "plain", **one)
        for n in ("plain", "compiled")
    }
    train(runs["plain"])
    train(runs["compiled"], stop_at=3)
    assert set(newest(tmp_path / "compiled")["model"]) == set(newest(tmp_path / "plain")["model"])
    train(config(images, truth_cache, tmp_path / "compiled", **one))
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "plain"), abs=2e-3)
