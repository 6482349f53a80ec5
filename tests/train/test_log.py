"""The log: what an interrupted run wrote past its checkpoint, its clock, and its gauges."""

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.train.runs import log
from train.collapse import deviation, rankme
from train.log import Clock, Log


def test_what_a_killed_run_logged_past_its_checkpoint_is_gone_from_both(tmp_path):
    """Damaged lines too; the scalars of TensorBoard are those of log.jsonl."""
    for start, steps in ((0, (1, 2, 3)), (2, (3,))):
        run = Log(tmp_path, start)
        for step in steps:
            run.write(step, loss=float(step + start))
        run.close()
        with open(tmp_path / "log.jsonl", "ab") as file:
            file.write(b'{"step": 2, "loss": \xff\xfe}\n{"step": 3, "lo')
    Log(tmp_path, 5).close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    shown = [(event.step, event.value) for event in board.Scalars("loss")]
    assert shown == [(line["step"], line["loss"]) for line in log(tmp_path)]
    assert shown == [(1, 1), (2, 2), (3, 5)]


def test_the_clock_counts_training_alone(monkeypatch):
    now = [10.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = Clock(batch=8)
    clock.steps, now[0] = 6, 12.0
    with clock.paused():
        now[0] = 99.0  # the online kNN
    now[0] += 1
    assert clock.read(waited=1.5) == {"images_per_second": 16.0, "waiting": 0.5}
    clock.steps, now[0] = 1, 101.0
    assert clock.read(waited=1.5) == {"images_per_second": 8.0, "waiting": 0.0}


def test_gauges_of_collapse_are_the_plain_formulas():
    points = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    share = np.linalg.svd(points.numpy(), compute_uv=False)
    share = share / share.sum()
    assert rankme(points) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-4)
    alike = points[:1].expand(40, 6)
    assert rankme(alike) == pytest.approx(1, abs=1e-4) and deviation(alike) < 1e-6
    unit = points.numpy() / np.linalg.norm(points.numpy(), axis=1, keepdims=True)
    assert deviation(points) == pytest.approx(unit.std(0, ddof=1).mean(), rel=1e-5)
