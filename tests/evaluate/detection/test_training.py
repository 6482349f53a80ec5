"""Training a detector: resumed bit for bit, stopped by a signal, on two processes, and able to
learn."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from data.cli import UsageError
from evaluate.detection import command
from evaluate.detection.annotations import read_coco
from evaluate.detection.average_precision import coco_ap
from evaluate.detection.models import build
from evaluate.detection.schedules import Schedule
from evaluate.detection.testing import detect
from evaluate.detection.training import fit
from evaluate.detection.voc import read_voc
from evaluate.weights import load_weights
from tests.evaluate.detection.folders import coco_folder, voc_folder
from train.network import backbone

CPU = torch.device("cpu")
SCHEDULE = Schedule(
    5, (3, 4), 2, (48, 64), lr=0.005, batch=2, test_scale=64, longest=120, precise_bn=2
)
OPTIONS = [
    "--iterations",
    "40",
    "--batch",
    "2",
    "--scales",
    "48",
    "64",
    "--test-scale",
    "64",
    "--regions",
    "16",
    "--precise-bn",
    "2",
    "--lr",
    "0.002",
    "--device",
    "cpu",
    "--save-every",
    "5",
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(
        {
            k: v
            for k, v in backbone("resnet10", "imagenet", 4).state_dict().items()
            if not k.startswith("fc.")
        },
        path,
    )
    return path


@pytest.fixture(scope="module")
def data(shared, tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    voc = voc_folder(shared, root / "voc", 10, 5)
    coco = coco_folder(shared, root / "coco", 6)
    return {"voc": voc, "coco": coco}


def small(weights, model: str, classes: int, seed: int = 0):
    return build(load_weights(weights), model, classes, seed, regions=16, channels=8)


def same(a: dict, b: dict) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("model", ["c4", "mask"])
def test_resumed_is_uninterrupted_bit_for_bit(data, weights, tmp_path, model):
    images = (
        read_voc(data["voc"])[0]
        if model == "c4"
        else read_coco(
            data["coco"] / "annotations" / "instances_train2017.json",
            data["coco"] / "train2017",
            "mini",
            outlines=True,
        )
    )
    count = len(images.classes)
    whole = fit(
        small(weights, model, count), images, SCHEDULE, tmp_path / "whole.pt", {}, CPU
    ).state_dict()
    started = fit(
        small(weights, model, count), images, SCHEDULE, tmp_path / "part.pt", {}, CPU, stop_at=2
    )
    assert not same(whole, started.state_dict())
    torch.rand(7)  # the global generator is wherever it is
    resumed = fit(
        small(weights, model, count, seed=5),
        images,
        SCHEDULE,
        tmp_path / "part.pt",
        {},
        CPU,
        workers=1,
    )
    assert same(whole, resumed.state_dict())
    finished = fit(small(weights, model, count), images, SCHEDULE, tmp_path / "part.pt", {}, CPU)
    assert same(whole, finished.state_dict())
    assert set(torch.load(tmp_path / "part.pt", weights_only=True)) == {"identity", "step", "model"}
    first = small(weights, model, count).state_dict()
    unmoved = [k for k in first if torch.equal(first[k], whole[k]) and first[k].ndim > 1]
    assert not unmoved  # everything is trained, from the first layer on
    with pytest.raises(UsageError, match=r"lr: 0\.005 -> 0\.1"):
        fit(
            small(weights, model, count),
            images,
            replace(SCHEDULE, lr=0.1),
            tmp_path / "part.pt",
            {},
            CPU,
        )


def test_precise_statistics_are_means_over_batches(data, weights, tmp_path):
    images = read_voc(data["voc"])[0]
    model = fit(
        small(weights, "c4", 1), images, replace(SCHEDULE, precise_bn=3), tmp_path / "a.pt", {}, CPU
    )
    other = fit(
        small(weights, "c4", 1), images, replace(SCHEDULE, precise_bn=0), tmp_path / "b.pt", {}, CPU
    )
    seen = []
    other.train()
    other.backbone.conv1.register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    from evaluate.detection.models import pixels
    from evaluate.detection.views import Order, Views

    views = Views(images, SCHEDULE, True)
    for items in Order(images, SCHEDULE, 8, 5):
        batch = views.__getitems__(items)
        with torch.no_grad():
            other([pixels(v.image, CPU) for v in batch], [v.target(CPU) for v in batch])
    mean = torch.stack([out.mean((0, 2, 3)) for out in seen]).mean(0)
    variance = torch.stack([out.var((0, 2, 3)) for out in seen]).mean(0)
    torch.testing.assert_close(model.backbone.bn1.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.backbone.bn1.running_var, variance, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(
        model.backbone.bn1.running_mean, other.backbone.bn1.running_mean, rtol=1e-3
    )


def test_a_run_says_its_protocol_and_repeats_over_seeds(data, weights, tmp_path):
    options = {
        "weights": str(weights),
        "iterations": 2,
        "batch": 2,
        "scales": (48,),
        "test_scale": 48,
        "regions": 16,
        "precise_bn": 1,
        "device": "cpu",
        "json_file": str(tmp_path / "x.json"),
        "seeds": 2,
    }
    result = command.run(data=str(data["voc"]), **options)
    assert result["evaluation"] == "detection-voc-c4" and set(result["accuracy"]) == {
        "box",
        "voc07",
    }
    assert len(result["per_seed"]) == 2 and set(result["deviation"]["box"]) == {
        "AP",
        "AP50",
        "AP75",
        "per_class",
    }
    protocol = result["protocol"]
    assert (protocol["iterations"], protocol["batch"], protocol["lr"], protocol["scales"]) == (
        2,
        2,
        0.0025,
        (48,),
    )
    assert protocol["changed"] == ["batch", "iterations", "scales", "test_scale", "precise_bn"]
    assert (protocol["train_images"], protocol["test_images"], protocol["classes"]) == (10, 5, 1)
    assert (tmp_path / "x-seed1.pt").is_file()
    assert command.run(data=str(data["voc"]), **options)["accuracy"] == result["accuracy"]
    for wrong in (
        {"model": "mask"},
        {"size": 224},
        {"regions": 0},
        {"batch": 0},
        {"iterations": 0},
        {"dataset": "coco"},
        {"test_scale": 5000},
    ):
        with pytest.raises(UsageError):
            command.run(data=str(data["voc"]), **(options | wrong))


def start(data, weights, out, *more, processes=1):
    launcher = [
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        "0",
        "--standalone",
    ]
    return subprocess.Popen(
        [
            sys.executable,
            *(launcher if processes > 1 else []),
            "-m",
            "evaluate",
            "detection",
            "--weights",
            str(weights),
            "--data",
            str(data),
            *OPTIONS,
            "--json",
            str(out),
            *more,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_continues(data, weights, tmp_path):
    out, file = tmp_path / "x.json", tmp_path / "x-seed0.pt"
    process = start(data["voc"], weights, out)
    while not file.exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert "the same command continues" in printed and not out.exists()
    step = torch.load(file, weights_only=True)["step"]
    assert 5 <= step < 40 and f"stopped at step {step} of 40" in printed
    printed, errors = start(data["voc"], weights, out).communicate(timeout=300)
    assert out.exists() and "VOC 2007's AP" in printed, errors


@pytest.mark.slow
def test_two_processes_train_and_find_what_one_finds(data, weights, tmp_path):
    out = tmp_path / "x.json"
    process = start(
        data["coco"],
        weights,
        out,
        "--dataset",
        "coco",
        "--model",
        "mask",
        "--iterations",
        "4",
        processes=2,
    )
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert printed.count("written to") == 1 and "masks, COCO's AP" in printed
    two = json.loads(out.read_text())
    assert two["protocol"]["processes"] == 2
    out.unlink()
    process = start(
        data["coco"], weights, out, "--dataset", "coco", "--model", "mask", "--iterations", "4"
    )
    process.communicate(
        timeout=300
    )  # the finished detector is loaded, and tested in this one process
    assert json.loads(out.read_text())["accuracy"] == two["accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["voc", "coco"])
def test_it_learns_a_handful_of_images(shared, tmp_path, dataset):
    """Faster R-CNN C4 on six raccoons, and Mask R-CNN on two images of fruit, learnt by heart from
    random weights."""
    torch.manual_seed(0)
    torch.save(
        {
            k: v
            for k, v in backbone("resnet10", "small_stride2", 16).state_dict().items()
            if not k.startswith("fc.")
        },
        tmp_path / "w.pt",
    )
    loaded = load_weights(tmp_path / "w.pt", "small_stride2")
    if dataset == "voc":
        images, kind, steps = read_voc(voc_folder(shared, tmp_path / "voc", 6, 1))[0], "c4", 200
    else:
        root = coco_folder(shared, tmp_path / "coco", 2)
        images = read_coco(
            root / "annotations" / "instances_train2017.json", root / "train2017", "mini", True
        )
        kind, steps = "mask", 250
    schedule = Schedule(
        steps,
        (int(0.8 * steps),),
        20,
        (128,),
        lr=0.02,
        batch=2,
        test_scale=128,
        longest=200,
        precise_bn=10,
    )
    model = build(loaded, kind, len(images.classes), regions=32, channels=32)
    model = fit(model, images, schedule, tmp_path / "x.pt", {}, CPU)
    found = detect(model, images, schedule, CPU)
    scores = {"bbox": coco_ap(images.truth, found)["AP50"]}
    if kind == "mask":
        scores["segm"] = coco_ap(images.truth, found, "segm")["AP50"]
    print(scores)
    assert min(scores.values()) > 90
