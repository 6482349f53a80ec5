"""TensorBoard's file says what log.jsonl says, also after a run that was killed and continued."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.train.runs import config
from train.collapse import deviation, rankme
from train.log import Clock, Log
from train.loop import train


def lines_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """{tag: [(step, value), ...]} of log.jsonl."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in map(json.loads, (folder / "log.jsonl").read_text().splitlines()):
        step = line.pop("step")
        for tag, value in line.items():
            found.setdefault(tag, []).append(
                (step, pytest.approx(value, rel=1e-6))
            )  # events are float32
    return found


def scalars_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    board = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    found = {
        tag: [(event.step, event.value) for event in board.Scalars(tag)]
        for tag in board.Tags()["scalars"]
    }
    return {
        tag: events for tag, events in found.items() if events
    }  # a tag whose every event is gone is still listed


def test_a_runs_curves_are_its_log(images, truth_cache, tmp_path):
    train(config(images, truth_cache, tmp_path / "run", epochs=1))
    found = scalars_of(tmp_path / "run")
    assert {"loss", "lr", "pasted", "waiting", "rankme", "deviation"} <= set(found) and len(
        found["loss"]
    ) == 5
    assert found == lines_of(tmp_path / "run")


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


def test_what_a_killed_run_logged_past_its_checkpoint_is_gone_from_both(tmp_path):
    log = Log(tmp_path, 0)
    for step in (1, 2, 3):
        log.write(step, loss=1 / step)
    log.write(3, knn=0.5)
    log.close()
    log = Log(tmp_path, 2)
    log.write(3, loss=7.0)
    log.close()
    assert scalars_of(tmp_path) == lines_of(tmp_path) == {"loss": [(1, 1.0), (2, 0.5), (3, 7.0)]}


def test_gauges_of_collapse_are_the_plain_formulas():
    points = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    share = np.linalg.svd(points.numpy(), compute_uv=False)
    share = share / share.sum()
    assert rankme(points) == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-4)
    assert rankme(torch.eye(6)) == pytest.approx(6, rel=1e-4)
    alike = points[:1].expand(40, 6)
    assert rankme(alike) == pytest.approx(1, abs=1e-4) and deviation(alike) < 1e-6
    unit = points.numpy() / np.linalg.norm(points.numpy(), axis=1, keepdims=True)
    assert deviation(points) == pytest.approx(unit.std(0, ddof=1).mean(), rel=1e-5)
