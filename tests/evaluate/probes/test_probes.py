"""kNN and the linear probe against independent answers, and the evaluations end to end on a tiny
run."""

import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from data.cli import UsageError
from evaluate.backgrounds import variants as backgrounds
from evaluate.common import command, reserved
from evaluate.features import Labelled, batches, extract, load_encoder
from evaluate.probes import knn, linear
from train.loop import train
from train.presets import configure


def blobs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    centres = np.random.default_rng(99).normal(0, 1, (3, 6))
    return (centres[labels] + rng.normal(0, 0.8, (count, 6))).astype(np.float32), labels


@pytest.mark.parametrize("k", [1, 5, 500])  # 500 is more than there are
def test_knn_is_brute_force(k):
    (train_x, train_y), (test_x, _) = blobs(120, 0), blobs(50, 1)
    expected = []
    for x in test_x.astype(float):
        cosine = train_x @ x / np.linalg.norm(train_x, axis=1) / np.linalg.norm(x)
        nearest = np.argsort(-cosine)[:k]
        votes = [np.exp(cosine[nearest][train_y[nearest] == c] / 0.07).sum() for c in range(3)]
        expected.append(int(np.argmax(votes)))
    assert knn.vote(*knn.nearest(train_x, test_x, k), train_y, k, 0.07, 3).tolist() == expected


def test_the_loaders_workers_need_no_fork(images):
    """From Python 3.14 on they are not forked: what they are given is pickled."""
    loader = batches(Labelled(str(images / "train"), 16), 1, torch.device("cpu"), batch=2)
    parts = loader.dataset, loader.collate_fn, loader.worker_init_fn
    dataset, collate, _ = pickle.loads(pickle.dumps(parts))
    assert torch.equal(collate(dataset.__getitems__([0, 1])), next(iter(loader)))


def test_linear_probe_is_the_optimum():
    x, y = blobs(150, 0)
    probe = linear.fit_probe(x, y, 3, l2=0.01)
    z = (x - x.mean(0)) / (x.std(0, ddof=1) + 1e-6)

    def cost(flat: np.ndarray) -> float:
        weight, bias = flat[:18].reshape(3, 6), flat[18:]
        scores = z @ weight.T + bias
        top = scores.max(1)
        return float(
            (np.log(np.exp(scores - top[:, None]).sum(1)) + top - scores[np.arange(150), y]).mean()
            + 0.005 * (weight**2).sum()
        )

    best = minimize(cost, np.zeros(21), method="BFGS", options={"gtol": 1e-7})
    assert cost(
        np.concatenate([probe.weight.numpy().ravel(), probe.bias.numpy()])
    ) == pytest.approx(best.fun, abs=1e-6)
    test_x, test_y = blobs(400, 2)
    weight, bias = best.x[:18].reshape(3, 6), best.x[18:]
    theirs = (((test_x - x.mean(0)) / (x.std(0, ddof=1) + 1e-6)) @ weight.T + bias).argmax(1)
    assert probe.accuracy(test_x, test_y) == pytest.approx(100 * (theirs == test_y).mean(), abs=0.5)


@pytest.fixture(scope="module")
def trained(images, truth_cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = {"width": 4, "batch": 16, "queue": 40, "splits": 2, "epochs": 1}
    folders = {"images": str(images / "train"), "masks": str(truth_cache), "out": str(out)}
    train(configure("moco_v2_demo", **folders, **settings))
    return str(out)


@pytest.fixture(scope="module")
def data(images, tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for folder in ("train", "val", "probe", *backgrounds.SPLITS):
        (root / folder).symlink_to(images / "train")
    return str(root)


def test_evaluations_give_numbers_with_their_protocol(trained, data):
    result = knn.evaluate(knn.Arguments(trained, data, k=(20, 1)))
    assert result["accuracy"]["1"] == 100  # every query is in the bank
    assert result["protocol"]["k"] == [20, 1] and result["protocol"]["train_images"] == 80
    assert (
        linear.evaluate(linear.Arguments(trained, data, protocol="optimum"))["accuracy"]["top-1"]
        > 60
    )
    accuracy = backgrounds.evaluate(backgrounds.Arguments(trained, data))["accuracy"]
    assert set(accuracy) == {"biased", "unbiased"} and set(accuracy["biased"]) == {
        *backgrounds.SPLITS,
        "gap",
    }
    assert accuracy["biased"]["gap"] == 0  # the splits are the same folder here


def test_an_untrained_network_is_the_one_that_training_began_with(trained, data):
    features, labels, classes = extract(load_encoder(trained), data + "/val")
    untrained, _, _ = extract(load_encoder(trained, untrained=True), data + "/val")
    assert features.shape == untrained.shape == (80, 32) and classes == ["class0", "class1"]
    assert np.bincount(labels).tolist() == [40, 40] and not np.allclose(features, untrained)
    again, _, _ = extract(load_encoder(trained, untrained=True), data + "/val", batch=7)
    assert np.allclose(untrained, again, atol=1e-5)


def test_seeds_repeat_over_runs_or_first_weights(trained, data, tmp_path):
    """Against the single evaluations; a second run's convolutions are redrawn, so that it is
    another network."""
    for seed in range(2):
        shutil.copytree(trained, tmp_path / f"run-s{seed}")
    state = torch.load(tmp_path / "run-s1" / "backbone.pt", weights_only=True)
    noise = torch.Generator().manual_seed(0)
    other = {
        k: torch.randn(v.shape, generator=noise) if k.endswith("conv1.weight") else v
        for k, v in state.items()
    }
    torch.save(other, tmp_path / "run-s1" / "backbone.pt")
    both = knn.evaluate(knn.Arguments(f"{tmp_path}/run-s{{seed}}", data, k=(20,), seeds=2))
    each = [
        knn.evaluate(knn.Arguments(f"{tmp_path}/run-s{seed}", data, k=(20,)))["accuracy"]["20"]
        for seed in range(2)
    ]
    assert (
        each[0] != each[1]
        and both["protocol"]["seeds_over"] == "runs"
        and both["protocol"]["seeds"] == 2
    )
    assert both["accuracy"]["20"] == pytest.approx(np.mean(each))
    assert both["deviation"]["20"] == pytest.approx(np.std(each, ddof=1))
    assert [found["20"] for found in both["per_seed"]] == each
    args = knn.Arguments(f"{tmp_path}/run-s{{seed}}", data, seeds=2)
    assert args.result_file() == tmp_path / "run-s0-1" / "knn.json"

    fresh = backgrounds.evaluate(backgrounds.Arguments(trained, data, untrained=True, seeds=3))
    first = backgrounds.evaluate(backgrounds.Arguments(trained, data, untrained=True))
    assert (
        fresh["per_seed"][0] == first["accuracy"]
        and fresh["protocol"]["seeds_over"] == "first weights"
    )
    assert len({found["biased"]["original"] for found in fresh["per_seed"]}) > 1
    same = knn.evaluate(knn.Arguments(trained, data, k=(20,), seeds=3))
    assert same["deviation"] == {"20": 0, "head 20": 0} or same["deviation"] == {"20": 0}
    assert same["protocol"]["seeds_over"] == "nothing that a seed changes"
    with pytest.raises(UsageError, match="--seeds 0"):
        knn.evaluate(knn.Arguments(trained, data, seeds=0))


def test_labels_are_places_in_the_probes_classes(images):
    assert Labelled(str(images / "train"), 32, ["class1", "class0"]).labels[0] == 1
    with pytest.raises(
        UsageError, match=r"class class0 .* is not one that the probe was trained on"
    ):
        Labelled(str(images / "train"), 32, ["class1"])
    with pytest.raises(UsageError, match="needs one folder a class"):
        Labelled(str(images / "train" / "class0"), 32)


def test_two_evaluations_do_not_write_one_file(trained, data, tmp_path):
    arguments = knn.Arguments(trained, data, json_file=str(tmp_path / "a.json"))
    with (
        reserved(arguments),
        pytest.raises(UsageError, match=r"a\.json: another evaluation is writing it"),
    ):
        command("knn", knn, ["--run", trained, "--data", data, "--json", str(tmp_path / "a.json")])


def test_command_line(trained, data, tmp_path):
    command = [sys.executable, "-m", "evaluate"]
    done = subprocess.run(
        [*command, "knn", "--run", trained, "--data", data, "--json", str(tmp_path / "a.json")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "k=200" in done.stdout and "temperature 0.07" in done.stdout
    assert json.loads((tmp_path / "a.json").read_text())["evaluation"] == "knn"
    for arguments, message in (
        (["nope"], "no evaluation 'nope'"),
        (["knn", "--run", str(tmp_path), "--data", data], "no run here"),
    ):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True)
        assert (
            done.returncode == 2
            and len(done.stderr.strip().splitlines()) == 1
            and message in done.stderr
        )
