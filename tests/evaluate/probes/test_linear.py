"""MoCo's linear protocol: the optimum is scipy's; frozen, resumed and distributed."""

import itertools
import json
import os
import re
import signal
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from evaluate.features import Encoder, TrainVal, extract, load_encoder
from evaluate.probes import linear, sgd
from evaluate.probes.sgd import Schedule
from evaluate.probes.sweep import fit_all, hold_out, sweep
from tests.conftest import execute, refused
from tests.evaluate.folders import command_line, signal_when

CPU = torch.device("cpu")


class Colour(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


COLOUR = Encoder(Colour(), 8, CPU)


@pytest.fixture
def images(colours):
    return sgd.Labelled(f"{colours}/train", 8)


@pytest.fixture
def encoder(network):
    return load_encoder(linear.Common(**network, size=16))


def optimum(x: np.ndarray, y: np.ndarray, l2: float = 0) -> tuple:
    """The cost of logistic regression of 3 classes, and scipy's optimum: weights, then biases."""

    def cost(flat: np.ndarray) -> float:
        scores = x @ flat[:-3].reshape(3, -1).T + flat[-3:]
        losses = np.logaddexp.reduce(scores, axis=1) - scores[np.arange(len(y)), y]
        return float(losses.mean() + l2 / 2 * (flat[:-3] ** 2).sum())

    start = np.zeros(3 * x.shape[1] + 3)
    return cost, minimize(cost, start, method="BFGS", options={"gtol": 1e-7}).x


def decided(x: np.ndarray, flat: np.ndarray) -> np.ndarray:
    return (x @ flat[:-3].reshape(3, -1).T + flat[-3:]).argmax(1)


@pytest.mark.parametrize("rows", [1000, 64, 149])  # of a block
def test_the_optimum_is_scipys(rows, monkeypatch):
    monkeypatch.setattr(linear, "ROWS", rows)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 550)
    x = (rng.normal(0, 1, (3, 6))[labels] + rng.normal(0, 0.8, (550, 6))).astype(np.float32)
    x, y, test_x, test_y = x[:150], labels[:150], x[150:], labels[150:]
    probe = linear.fit_probe(x, y, 3, l2=0.01)
    mean, deviation = x.mean(0), x.std(0, ddof=1) + 1e-6
    cost, best = optimum((x - mean) / deviation, y, 0.01)
    ours = np.concatenate([probe.weight.numpy().ravel(), probe.bias.numpy()])
    assert cost(ours) == pytest.approx(cost(best), abs=1e-6)
    expected = 100 * (decided((test_x - mean) / deviation, best) == test_y).mean()
    assert probe.accuracy(test_x, test_y) == pytest.approx(expected, abs=0.5)


def colour_features(images):
    found = np.stack([images.read(i)[0, 0] for i in range(len(images))]) / 255
    return ((found - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)), images.labels


def test_sgd_reaches_the_optimum(images, colours, tmp_path):
    schedule = Schedule(epochs=120, batch=60, lr=6.0)
    model = sgd.fit(COLOUR, images, schedule, tmp_path / "x.pt")
    cost, best = optimum(*colour_features(images))
    ours = torch.cat([model.fc.weight.detach().flatten(), model.fc.bias.detach()]).numpy()
    assert cost(ours) == pytest.approx(cost(best), abs=1e-5)
    assert cost(ours) < cost(np.zeros(12)) - 0.2
    test = sgd.Labelled(f"{colours}/val", 8, images.classes)
    found = sgd.evaluate(model, test)
    x, y = colour_features(test)
    right = decided(x, best) == y
    assert found["top-1"] == pytest.approx(100 * right.mean()) and "top-5" not in found
    by_class = {name: 100 * right[y == i].mean() for i, name in enumerate("abc")}
    assert found["per_class"] == pytest.approx(by_class)


def test_rates_and_order():
    step, cosine = Schedule(epochs=100), Schedule(epochs=10, decay="cosine")
    rates = [step.factor(7 * epoch, 7) for epoch in (0, 59, 60, 79, 80, 99)]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert [cosine.factor(i, 3) for i in (0, 10, 15, 20)] == pytest.approx([1, 0.75, 0.5, 0.25])
    steps = list(sgd.Order(10, Schedule(epochs=2, batch=4, seed=1)))
    for epoch in range(2):  # every image once
        seen = [item for part in steps[3 * epoch : 3 * epoch + 3] for item in part]
        assert sorted(seen) == [(epoch, i) for i in range(10)]


@pytest.mark.parametrize("finetune", [False, True])
def test_stopped_and_continued_bit_by_bit(finetune, encoder, images, tmp_path, monkeypatch, capsys):
    number, code = (signal.SIGTERM, 0) if finetune else (signal.SIGINT, 130)
    schedule = Schedule(3, 16, 1.0, backbone_lr=0.05, decay="cosine", finetune=finetune)
    encoder.model.train(not finetune)  # would move BatchNorm's buffers
    before = sgd.fingerprint(encoder.model)
    whole = sgd.fit(encoder, images, schedule, tmp_path / "a.pt")
    calls = itertools.count(1)  # the 80th is in the middle of an epoch of 4 steps
    with monkeypatch.context() as patched, pytest.raises(SystemExit) as stopped:
        signal_when(
            patched, sgd.Labelled, "read", number, lambda *_: next(calls) == 80
        )  # mid-epoch
        sgd.fit(encoder, images, schedule, tmp_path / "b.pt")
    assert stopped.value.code == code and "the same command continues" in capsys.readouterr().out
    assert torch.load(tmp_path / "b.pt", weights_only=True)["step"] == 6
    parts = sgd.fit(replace(encoder, workers=1), images, schedule, tmp_path / "b.pt")
    assert sgd.fingerprint(parts) == sgd.fingerprint(whole)
    assert sgd.fingerprint(encoder.model) == before  # fine-tuning works on a copy
    assert (sgd.fingerprint(parts.backbone) == before) != finetune
    said = refused(sgd.fit, encoder, images, replace(schedule, lr=2.0), tmp_path / "b.pt")
    assert "trained otherwise (lr: 1.0 -> 2.0)" in said


def test_a_kept_file_from_elsewhere_is_one_line(images, tmp_path):
    file = tmp_path / "x" / "x.pt"
    fit = partial(sgd.fit, COLOUR, images, Schedule(epochs=1, lr=1.0), file)
    wrong = re.compile(r"x\.pt: (not|a link) .*; delete it")
    fit()
    state = torch.load(file, weights_only=True)
    momenta = {"state": {0: {"momentum_buffer": torch.zeros(9)}}, "param_groups": []}
    layers = {"bias": torch.zeros(3), "weight": torch.zeros(2, 3)}
    infinite = layers | {"weight": torch.ones(3, 3) / 0}
    changes = ({"step": 1.5}, {"optimizer": momenta}, {"model": layers}, {"model": infinite})
    for content in ([1], *(state | change for change in changes)):
        torch.save(content, file)
        before = file.read_bytes()
        assert wrong.search(refused(fit)) and file.read_bytes() == before
    torch.save(state, file)
    file.symlink_to(file.rename(tmp_path / "elsewhere.pt"))
    assert wrong.search(refused(fit))
    file.unlink()
    os.mkfifo(file)
    assert wrong.search(refused(fit))


def test_workers_that_die_twice_leave_what_was_reached(encoder, images, tmp_path, monkeypatch):
    schedule = Schedule(epochs=2, batch=8, lr=1.0)
    whole = sgd.fit(encoder, images, schedule, tmp_path / "a.pt")
    one = replace(encoder, workers=1)
    with monkeypatch.context() as patched:
        signal_when(patched, sgd.Labelled, "read", signal.SIGKILL, lambda _, i: i == 17)
        assert "failed twice" in refused(sgd.fit, one, images, schedule, tmp_path / "b.pt")
    assert (tmp_path / "b.pt").exists()
    parts = sgd.fit(encoder, images, schedule, tmp_path / "b.pt")
    assert sgd.fingerprint(parts) == sgd.fingerprint(whole)


class Broken(nn.Module):
    """Not frozen: a buffer counts calls, and after the `last` one features are not finite."""

    def __init__(self, last: int):
        super().__init__()
        self.last = last
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x.mean((2, 3)) + (torch.nan if self.calls > self.last else 0)


def test_what_is_not_finite_is_never_saved_and_a_changed_backbone_is_noticed(images, tmp_path):
    """60 images in 2 steps an epoch; from step 4 on the features are not finite."""
    schedule = Schedule(epochs=9, batch=30, lr=1.0)
    with pytest.raises(AssertionError, match="the frozen backbone changed"):
        sgd.fit(Encoder(Broken(99), 8, CPU), images, schedule, tmp_path / "z.pt")
    message = r"x: the loss is not finite at step 4; .*x.pt keeps step 2; lower --lr and give anoth"
    broken = Encoder(Broken(1 + 3), 8, CPU)
    assert re.search(message, refused(sgd.fit, broken, images, schedule, tmp_path / "x.pt"))
    state = torch.load(tmp_path / "x.pt", weights_only=True)
    assert state["step"] == 2 and all(v.isfinite().all() for v in state["model"].values())
    overflow = Schedule(epochs=1, batch=60, lr=1e38, weight_decay=1e9)  # in the last step
    said = refused(sgd.fit, COLOUR, images, overflow, tmp_path / "y.pt")
    assert said.endswith("y: the loss is not finite at step 1; lower --lr")
    assert not (tmp_path / "y.pt").exists()


def test_sweep_is_sgd_at_each_rate(images, tmp_path):
    schedule, rates = Schedule(epochs=5, batch=16, weight_decay=0.01), (0.1, 1.0)
    part = extract(COLOUR, images), images.labels
    layers = fit_all(TrainVal(*part, *part, list("abc")), rates, schedule, CPU, np.arange(60))
    for layer, rate in zip(layers, rates, strict=True):
        model = sgd.fit(COLOUR, images, replace(schedule, lr=rate), tmp_path / f"{rate}.pt")
        assert torch.allclose(layer.weight, model.fc.weight, atol=1e-5)
    # it chooses by held-out images and survives divergence
    rng = np.random.default_rng(1)
    centres = rng.normal(0, 3, (6, 8))
    y, truth = np.repeat(np.arange(6), 20), np.repeat(np.arange(6), 5)
    x, test = ((centres[c] + rng.normal(size=(len(c), 8))).astype(np.float32) for c in (y, truth))
    features = TrainVal(x, y, test, truth, list("abcdef"))
    found = sweep(features, (1e-6, 0.3, 3e38), Schedule(epochs=20, batch=32), CPU)
    assert found["lr"] == 0.3 and found["held_out"]["0.3"] > 80
    assert found["top-1"] == found["by_lr"]["0.3"] > 80 and found["top-5"] >= found["top-1"]
    assert found["by_lr"]["3e+38"] < 50
    held = hold_out(y, 0)
    assert np.bincount(y[held]).tolist() == [2] * 6 and not hold_out(np.arange(5), 0).any()


def test_protocols_and_seeds(colours, network, tmp_path):
    options = {**network, "size": 16, "epochs": 2, "batch": 16, "data": colours, "seeds": 2}
    arguments = linear.Arguments(lr=1.0, json_file=str(tmp_path / "x.json"), **options)
    result = linear.evaluate(arguments)
    assert result["protocol"]["name"] == "MoCo's protocol" and len(result["per_seed"]) == 2
    assert result["per_seed"][0] != result["per_seed"][1]
    fast = linear.evaluate(replace(arguments, sweep=True, sweep_lr=(0.1, 1.0)))
    assert "not MoCo's protocol" in linear.lines(fast)[-1]
    assert len(fast["protocol"]["chosen_lr"]) == 2 == len(fast["deviation"]["by_lr"])
    best = linear.evaluate(replace(arguments, protocol="optimum"))
    assert best["accuracy"]["top-1"] > 50 and best["deviation"]["top-1"] == 0


@pytest.mark.slow
def test_two_processes_give_what_one_gives(colours, network, tmp_path):
    """17 images in batches of 16: one process has no part in each second one."""
    options = f"--weights {network['weights']} --stem small_stride2 --size 32 --data {colours}"
    options += " --percent 28 --epochs 3 --lr 1 --finetune-epochs 2 --head-lr .5 --backbone-lr .05"
    options += " --batch 16 --device cpu --json"
    results, models = [], []
    for processes in (1, 2):
        file = tmp_path / f"{processes}.json"
        line = command_line("few", *options.split(), file, processes=processes)
        done = execute(line)
        assert done.returncode == 0 and done.stdout.count("written to") == 1, done.stderr
        result = json.loads(file.read_text())
        results.append((result["accuracy"], result["protocol"]))
        files = [f"{processes}-28percent-{mode}-seed0.pt" for mode in ("linear", "finetune")]
        models.append([torch.load(tmp_path / f, weights_only=True)["model"] for f in files])
    assert results[0] == results[1]
    for one, two, rtol, atol in zip(*models, (0, 1e-2), (1e-5, 1e-3), strict=True):
        for name, value in one.items():
            assert torch.allclose(value.double(), two[name].double(), rtol, atol), name
