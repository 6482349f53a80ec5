"""MoCo's linear protocol: optimum against scipy's, steps against torch's own, frozen, resumed and
distributed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn
from torch.optim import lr_scheduler

from data.cli import UsageError
from evaluate.common import Common
from evaluate.features import Encoder, TrainVal, load_encoder
from evaluate.probes import linear, sgd
from evaluate.probes.sgd import Order, Schedule
from evaluate.probes.sweep import fit_all, hold_out, sweep
from train.features import Labelled

CPU = torch.device("cpu")


class Colour(nn.Module):
    """A backbone whose three features are the mean colour."""

    def forward(self, x):
        return x.mean((2, 3))


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Pictures of one colour each (a crop changes nothing), in three classes that overlap."""
    root = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for folder, count in (("train", 20), ("val", 7)):
        for name, centre in (("a", (60, 120, 120)), ("b", (120, 60, 120)), ("c", (120, 120, 60))):
            (root / folder / name).mkdir(parents=True)
            for i in range(count):
                colour = np.clip(rng.normal(centre, 45), 0, 255).astype(np.uint8)
                cv2.imwrite(str(root / folder / name / f"{i}.png"), np.full((20, 24, 3), colour))
    return str(root)


def blobs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    centres = np.random.default_rng(99).normal(0, 1, (3, 6))
    return (centres[labels] + rng.normal(0, 0.8, (count, 6))).astype(np.float32), labels


def optimum(x: np.ndarray, y: np.ndarray, l2: float = 0) -> tuple[Callable, np.ndarray]:
    """The cost of logistic regression with three classes, and scipy's optimum (12 or 21 numbers:
    weights, then biases)."""

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
    x, y = blobs(150, 0)
    probe = linear.fit_probe(x, y, 3, l2=0.01)
    mean, deviation = x.mean(0), x.std(0, ddof=1) + 1e-6
    cost, best = optimum((x - mean) / deviation, y, 0.01)
    ours = np.concatenate([probe.weight.numpy().ravel(), probe.bias.numpy()])
    assert cost(ours) == pytest.approx(cost(best), abs=1e-6)
    test_x, test_y = blobs(400, 2)
    expected = 100 * (decided((test_x - mean) / deviation, best) == test_y).mean()
    assert probe.accuracy(test_x, test_y) == pytest.approx(expected, abs=0.5)


def colour_features(images):
    found = np.stack([images.read(i)[0, 0] for i in range(len(images))]) / 255
    return ((found - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)), images.labels


def test_sgd_reaches_the_optimum(colours, tmp_path):
    images = Labelled(f"{colours}/train", 8)
    schedule = Schedule(epochs=120, batch=60, lr=6.0)
    model = sgd.fit(Encoder(Colour(), 8, CPU), images, schedule, tmp_path / "x.pt")
    cost, best = optimum(*colour_features(images))
    ours = torch.cat([model.fc.weight.detach().flatten(), model.fc.bias.detach()]).numpy()
    assert cost(ours) == pytest.approx(cost(best), abs=1e-5)
    assert cost(ours) < cost(np.zeros(12)) - 0.2
    test = Labelled(f"{colours}/val", 8, images.classes)
    found = sgd.evaluate(model, test)
    x, y = colour_features(test)
    right = decided(x, best) == y
    assert found["top-1"] == pytest.approx(100 * right.mean()) and "top-5" not in found
    by_class = {name: 100 * right[y == i].mean() for i, name in enumerate("abc")}
    assert found["per_class"] == pytest.approx(by_class)


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        (Schedule(epochs=100), lambda o: lr_scheduler.MultiStepLR(o, [60 * 7, 80 * 7])),
        (Schedule(epochs=5, decay="cosine"), lambda o: lr_scheduler.CosineAnnealingLR(o, 5 * 7)),
    ],
)
def test_rates_fall_as_torchs_schedulers_say(schedule, make):
    optimizer = torch.optim.SGD([torch.zeros(1)], 1.0)
    theirs = make(optimizer)
    for step in range(schedule.epochs * 7):
        rate = optimizer.param_groups[0]["lr"]
        assert schedule.factor(step, 7) == pytest.approx(rate, rel=1e-6)
        optimizer.step()
        theirs.step()


def test_every_image_is_seen_once_an_epoch():
    schedule = Schedule(epochs=2, batch=4, seed=1)
    steps = list(Order(10, schedule, 0))
    assert [len(s) for s in steps] == [4, 4, 2] * 2
    for epoch in range(2):
        seen = [i for step in steps[3 * epoch : 3 * epoch + 3] for e, i in step if e == epoch]
        assert sorted(seen) == list(range(10))
    assert list(Order(10, schedule, 4)) == steps[4:] and len(Order(10, schedule, 4)) == 2


def encoder_of(moco, size=16):
    return load_encoder(Common(weights=moco, stem="small_stride2", size=size, device="cpu"))


def signal_at(monkeypatch, number: int, read: int) -> None:
    """This process gets a signal while an image is read for the `read`-th time."""
    original, calls = Labelled.read, []

    def interrupted(self, i):
        calls.append(i)
        if len(calls) == read:
            os.kill(os.getpid(), number)
        return original(self, i)

    monkeypatch.setattr(Labelled, "read", interrupted)


@pytest.mark.parametrize(
    ("finetune", "number", "code"),
    [(False, signal.SIGINT, 130), (True, signal.SIGTERM, 0), (False, signal.SIGUSR1, 0)],
)
def test_a_stopped_training_continues_bit_by_bit(
    finetune, number, code, moco, colours, tmp_path, monkeypatch, capsys
):
    settings = {"epochs": 3, "batch": 16, "backbone_lr": 0.05, "decay": "cosine"}
    schedule = Schedule(lr=1.0, finetune=finetune, **settings)
    images = Labelled(f"{colours}/train", 16)
    whole = sgd.fit(encoder_of(moco), images, schedule, tmp_path / "a.pt")
    encoder = encoder_of(moco)
    before = sgd.fingerprint(encoder.model)
    with monkeypatch.context() as patched, pytest.raises(SystemExit) as stopped:
        signal_at(patched, number, 80)  # in the middle of an epoch of 4 steps
        sgd.fit(encoder, images, schedule, tmp_path / "b.pt")
    assert stopped.value.code == code and "the same command continues" in capsys.readouterr().out
    assert torch.load(tmp_path / "b.pt", weights_only=True)["step"] == 6
    parts = sgd.fit(replace(encoder, workers=1), images, schedule, tmp_path / "b.pt")
    assert sgd.fingerprint(parts) == sgd.fingerprint(whole)
    assert sgd.fingerprint(encoder.model) == before  # fine-tuning works on a copy
    assert (sgd.fingerprint(parts.backbone) == before) != finetune
    other = Schedule(lr=2.0, finetune=finetune, **settings)
    with pytest.raises(UsageError, match=r"trained otherwise \(lr: 1.0 -> 2.0\)"):
        sgd.fit(encoder, images, other, tmp_path / "b.pt")


FOREIGN = {
    "bytes": lambda state: b"broken",
    "list": lambda state: [1],
    "no model": lambda state: {k: v for k, v in state.items() if k != "model"},
    "no tensor": lambda state: state | {"model": {"weight": 1, "bias": 2}},
    "shape": lambda state: state | {"model": {"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}},
    "absurd": lambda state: state | {"model": {"weight": torch.zeros(1).expand(10**9, 10**5)}},
    "not finite": lambda state: state | {"model": {k: v / 0 for k, v in state["model"].items()}},
    "step": lambda state: state | {"step": 1.5},
    "more": lambda state: state | {"extra": 1},
    "momentum": lambda state: (
        state
        | {"optimizer": {"state": {0: {"momentum_buffer": torch.zeros(9)}}, "param_groups": []}}
    ),
}


@pytest.mark.parametrize("kind", [*FOREIGN, "link", "pipe"])
def test_a_kept_file_from_elsewhere_is_one_line(kind, colours, tmp_path):
    """And is left as it is."""
    images, file = Labelled(f"{colours}/train", 8), tmp_path / "x" / "x.pt"
    fit = partial(sgd.fit, Encoder(Colour(), 8, CPU), images, Schedule(epochs=1, lr=1.0), file)
    fit()
    content = file.read_bytes()
    if kind in FOREIGN:
        state = FOREIGN[kind](torch.load(file, weights_only=True))
        if isinstance(state, bytes):
            file.write_bytes(state)
        else:
            torch.save(state, file)
        content = file.read_bytes()
    else:
        file.rename(tmp_path / "elsewhere.pt")
        if kind == "link":
            file.symlink_to(tmp_path / "elsewhere.pt")
        else:
            os.mkfifo(file)
    with pytest.raises(UsageError, match=r"x\.pt: (not|a link) .*; delete it to begin anew"):
        fit()
    assert kind == "pipe" or file.read_bytes() == content


@pytest.mark.parametrize("times", [1, pytest.param(99, marks=pytest.mark.slow)])
def test_a_worker_that_dies_is_started_again(times, moco, colours, tmp_path, monkeypatch, capfd):
    """At the step that it died in; where that fails too, what was reached is saved."""
    original, deaths = Labelled.read, tmp_path / "deaths"
    deaths.write_text("")

    def dying(self, i):
        if i == 17 and len(deaths.read_text()) < times:
            deaths.write_text(deaths.read_text() + "x")
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, i)

    images, schedule = Labelled(f"{colours}/train", 16), Schedule(epochs=2, batch=8, lr=1.0)
    whole = sgd.fit(encoder_of(moco), images, schedule, tmp_path / "a.pt")
    with monkeypatch.context() as patched:
        patched.setattr(Labelled, "read", dying)
        encoder = replace(encoder_of(moco), workers=1)
        fit = partial(sgd.fit, encoder, images, schedule, tmp_path / "b.pt")
        if times == 1:
            assert sgd.fingerprint(fit()) == sgd.fingerprint(whole)
            assert "they are started again" in capfd.readouterr().err
            return
        with pytest.raises(UsageError, match="loader workers failed twice at batch"):
            fit()
    parts = sgd.fit(encoder_of(moco), images, schedule, tmp_path / "b.pt")
    assert sgd.fingerprint(parts) == sgd.fingerprint(whole)


class Counting(nn.Module):
    """A backbone that is not frozen: a buffer counts its calls."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x.mean((2, 3))


def test_a_backbone_that_changes_is_noticed(colours, moco, tmp_path):
    images, schedule = Labelled(f"{colours}/train", 8), Schedule(epochs=1, batch=30, lr=1.0)
    with pytest.raises(AssertionError, match="the frozen backbone changed"):
        sgd.fit(Encoder(Counting(), 8, CPU), images, schedule, tmp_path / "x.pt")
    encoder = encoder_of(moco)
    encoder.model.train()  # would move BatchNorm's buffers
    before = sgd.fingerprint(encoder.model)
    sgd.fit(encoder, images, schedule, tmp_path / "y.pt")
    assert sgd.fingerprint(encoder.model) == before


def test_a_bad_image_is_one_line(moco, tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "bad.png").write_bytes(b"nothing")
    images = Labelled(f"{tmp_path}/train", 16)
    with pytest.raises(UsageError, match=r"a/bad.png: .*; remove or repair that image"):
        sgd.fit(encoder_of(moco), images, Schedule(epochs=1), tmp_path / "x.pt")


def test_what_is_not_finite_is_never_saved(colours, tmp_path):
    """60 images in 2 steps an epoch; from step 4 on the features are not finite."""

    class Breaking(Colour):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x) + (torch.nan if self.calls > 1 + 3 else 0)

    images, schedule = Labelled(f"{colours}/train", 8), Schedule(epochs=9, batch=30, lr=1.0)
    message = r"x: the loss is not finite at step 4; .*x.pt keeps step 2; lower --lr and give anoth"
    with pytest.raises(UsageError, match=message):
        sgd.fit(Encoder(Breaking(), 8, CPU), images, schedule, tmp_path / "x.pt")
    state = torch.load(tmp_path / "x.pt", weights_only=True)
    assert state["step"] == 2 and all(v.isfinite().all() for v in state["model"].values())
    schedule = Schedule(
        epochs=1, batch=60, lr=1e38, weight_decay=1e9
    )  # weights that overflow in the last step
    with pytest.raises(UsageError, match=r"y: the loss is not finite at step 1; lower --lr$"):
        sgd.fit(Encoder(Colour(), 8, CPU), images, schedule, tmp_path / "y.pt")
    assert not (tmp_path / "y.pt").exists()


def test_sweep_is_sgd_at_each_rate():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 6)).astype(np.float32), rng.integers(0, 3, 50)
    schedule, rates = Schedule(epochs=5, batch=50, weight_decay=0.01), (0.1, 1.0)
    features = TrainVal(x, y, x, y, list("abc"))
    layers = fit_all(features, rates, schedule, CPU)
    for ours, rate in zip(layers, rates, strict=True):
        layer = nn.Linear(6, 3)
        nn.init.normal_(layer.weight, 0, 0.01, generator=torch.Generator().manual_seed(0))
        nn.init.zeros_(layer.bias)
        optimizer = torch.optim.SGD(layer.parameters(), rate, momentum=0.9, weight_decay=0.01)
        steps = lr_scheduler.MultiStepLR(optimizer, [3, 4])
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(layer(torch.from_numpy(x)), torch.from_numpy(y)).backward()
            optimizer.step()
            steps.step()
        assert torch.allclose(ours.weight, layer.weight, atol=1e-5)
        assert torch.allclose(ours.bias, layer.bias, atol=1e-5)


def test_sweep_chooses_by_held_out_images_and_survives_divergence():
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


def test_seeds_give_mean_and_deviation(colours, moco, tmp_path):
    options = {"weights": moco, "size": 16, "stem": "small_stride2", "epochs": 2, "batch": 16}
    options |= {"data": colours, "json_file": str(tmp_path / "x.json")}
    result = linear.evaluate(linear.Arguments(seeds=2, lr=1.0, **options))
    each = [seed["top-1"] for seed in result["per_seed"]]
    assert result["accuracy"]["top-1"] == pytest.approx(np.mean(each))
    assert result["deviation"]["top-1"] == pytest.approx(np.std(each, ddof=1))
    assert result["protocol"]["name"] == "MoCo's protocol" and (tmp_path / "x-seed1.pt").exists()
    fast = linear.evaluate(linear.Arguments(sweep=True, sweep_lr=(0.1, 1.0), seeds=2, **options))
    assert fast["evaluation"] == "linear-sweep"
    assert "not MoCo's protocol" in linear.lines(fast)[-1]
    assert len(fast["protocol"]["chosen_lr"]) == 2
    assert set(fast["deviation"]["by_lr"]) == {"0.1", "1"}


@pytest.mark.slow
def test_two_processes_give_what_one_gives(colours, moco, tmp_path):
    """17 images in batches of 16: one process has no part in each second one."""
    options = f"--weights {moco} --stem small_stride2 --size 32 --data {colours} --percent 28"
    options += " --epochs 3 --lr 1 --finetune-epochs 2 --head-lr .5 --backbone-lr .05 --batch 16"
    launch = ["-m", "train.launch", "--nproc-per-node", "2", "--standalone"]
    results = []
    for name, launcher in (("one", []), ("two", launch)):
        command = [*launcher, "-m", "evaluate", "few", *options.split()]
        done = subprocess.run(
            [sys.executable, *command, "--json", f"{tmp_path}/{name}.json"],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("written to") == 1
        results.append(json.loads((tmp_path / f"{name}.json").read_text()))
    one, two = results
    assert one["accuracy"] == two["accuracy"] and one["protocol"] == two["protocol"]
    for mode, rtol, atol in (("linear", 0, 1e-5), ("finetune", 1e-2, 1e-3)):
        one, two = (
            torch.load(tmp_path / f"{n}-28percent-{mode}-seed0.pt", weights_only=True)["model"]
            for n in ("one", "two")
        )
        for name, value in one.items():
            assert torch.allclose(value.double(), two[name].double(), rtol, atol), name
