"""Training a detector: resumed bit for bit, stopped by a signal, on two processes, and able to
learn."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.cli import UsageError
from evaluate.common import command, reserved
from evaluate.detection import command as detection
from evaluate.detection.average_precision import coco_ap
from evaluate.detection.coco import read_coco
from evaluate.detection.command import Arguments, evaluate, lines
from evaluate.detection.models import build
from evaluate.detection.schedules import Runtime, Schedule
from evaluate.detection.testing import detect
from evaluate.detection.training import fit
from evaluate.detection.views import GroupedBatches, Views
from evaluate.detection.voc import read_voc
from tests.evaluate.detection.folders import coco_folder, signal_at, voc_folder
from train.network import backbone
from train.weights import load_weights

CPU = Runtime(torch.device("cpu"))
SCHEDULE = Schedule(
    5, (3, 4), 2, (48, 64), lr=0.005, batch=2, test_scale=64, longest=120, precise_bn=2
)
OPTIONS = "--iterations 40 --batch 2 --scales 48 64 --test-scale 64 --regions 16 --precise-bn 2"
OPTIONS += " --lr 0.002 --device cpu --save-every 5"


def save_backbone(path: Path, stem: str, width: int) -> Path:
    torch.manual_seed(0)
    state = backbone("resnet10", stem, width).state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("fc.")}, path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_backbone(tmp_path_factory.mktemp("weights") / "tiny.pt", "imagenet", 4)


@pytest.fixture(scope="module")
def data(shared, tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    voc_folder(shared, root / "voc", 10, 5)
    coco_folder(shared, root / "coco", 6)
    return root


def training_images(root: Path, dataset: str):
    if dataset == "voc":
        return read_voc(root / "voc")[0]
    file = root / "coco/annotations/instances_train2017.json"
    return read_coco(file, root / "coco/train2017", "mini", outlines=True)


def small(weights, model: str, classes: int, seed: int = 0):
    return build(load_weights(weights), model, classes, seed, regions=16, channels=8)


def same(a: dict, b: dict) -> bool:
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    ("model", "dataset", "number", "code"),
    [("c4", "voc", signal.SIGTERM, 0), ("mask", "coco", signal.SIGINT, 130)],
)
def test_stopped_and_continued_is_uninterrupted_bit_for_bit(
    data, weights, tmp_path, monkeypatch, model, dataset, number, code
):
    images = training_images(data, dataset)
    whole, part = tmp_path / "whole.pt", tmp_path / "part.pt"

    def trained(file: Path, seed: int = 0, schedule: Schedule = SCHEDULE, **runtime) -> dict:
        detector = small(weights, model, len(images.classes), seed)
        return fit(detector, images, schedule, file, {}, replace(CPU, **runtime)).state_dict()

    expected = trained(whole)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        signal_at(patch, number, 1)
        trained(part)
    assert stopped.value.code == code and torch.load(part, weights_only=True)["step"] == 2
    torch.rand(7)  # the global generator is wherever it is
    assert same(expected, trained(part, seed=5, workers=1))
    assert same(expected, trained(part))
    assert set(torch.load(part, weights_only=True)) == {"identity", "step", "model"}
    first = small(weights, model, len(images.classes)).state_dict()
    unmoved = [k for k in first if torch.equal(first[k], expected[k]) and first[k].ndim > 1]
    assert not unmoved  # everything is trained, from the first layer on
    with pytest.raises(UsageError, match=r"lr: 0\.005 -> 0\.1"):
        trained(part, schedule=replace(SCHEDULE, lr=0.1))


def test_precise_statistics_are_means_over_batches(data, weights, tmp_path):
    images = training_images(data, "voc")
    norm, other = (
        fit(
            small(weights, "c4", 1),
            images,
            schedule,
            tmp_path / f"{schedule.precise_bn}.pt",
            {},
            CPU,
        )
        for schedule in (replace(SCHEDULE, precise_bn=3), replace(SCHEDULE, precise_bn=0))
    )
    outputs = []
    other.train()
    other.backbone.conv1.register_forward_hook(lambda _, __, out: outputs.append(out.detach()))
    views = Views(images, SCHEDULE, True)
    for items in GroupedBatches(images, SCHEDULE, 8, 5):
        batch = views.__getitems__(items)
        with torch.no_grad():
            other([image / 255 for image, _ in batch], [target for _, target in batch])
    mean = torch.stack([out.mean((0, 2, 3)) for out in outputs]).mean(0)
    variance = torch.stack([out.var((0, 2, 3)) for out in outputs]).mean(0)
    statistics = norm.backbone.bn1
    torch.testing.assert_close(statistics.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(statistics.running_var, variance, rtol=1e-4, atol=1e-5)
    running = other.backbone.bn1.running_mean
    assert not torch.allclose(statistics.running_mean, running, rtol=1e-3)


def test_a_result_has_its_protocol_and_repeats_over_seeds(data, weights, tmp_path):
    arguments = Arguments(
        weights=str(weights),
        data=str(data / "voc"),
        iterations=2,
        batch=2,
        scales=(48,),
        test_scale=48,
        regions=16,
        precise_bn=1,
        device="cpu",
        json_file=str(tmp_path / "x.json"),
        seeds=2,
    )
    result = evaluate(arguments)
    assert result["evaluation"] == "detection-voc-c4"
    assert set(result["accuracy"]) == {"box", "voc07"} and len(result["per_seed"]) == 2
    assert set(result["deviation"]["box"]) == {"AP", "AP50", "AP75", "per_class"}
    protocol = result["protocol"]
    expected = {"iterations": 2, "batch": 2, "lr": 0.0025, "scales": (48,), "train_images": 10}
    expected |= {"test_images": 5, "classes": 1, "schedule": "voc_24k", "precision": "float32"}
    assert {key: protocol[key] for key in expected} == expected
    assert protocol["changed"] == ["batch", "iterations", "scales", "test_scale", "precise_bn"]
    assert len(lines(result)) == 3 and "AP50" in lines(result)[2]
    assert (tmp_path / "x-seed1.pt").is_file()
    assert evaluate(arguments)["accuracy"] == result["accuracy"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "mask"}, "--model mask needs outlines"),
        ({"size": 224}, "--size is of crops"),
        ({"regions": 0}, "--regions 0"),
        ({"batch": 0}, "--batch 0"),
        ({"iterations": 0}, "--iterations must be at least 1"),
        ({"lr": -1.0}, "--lr"),
        ({"scales": (8,)}, "short sides from 16"),
        ({"test_scale": 5000}, "short sides from 16"),
        ({"dataset": "coco"}, "annotations/instances_train2017.json"),
    ],
)
def test_options_that_cannot_be_meant(data, weights, wrong, message):
    with pytest.raises((UsageError, FileNotFoundError), match=message):
        evaluate(Arguments(weights=str(weights), data=str(data / "voc"), device="cpu", **wrong))


def test_a_second_detection_of_the_same_result_is_told_at_its_start(weights, tmp_path):
    places = {"weights": str(weights), "data": "/nowhere", "json_file": str(tmp_path / "x.json")}
    argv = ["--weights", str(weights), "--data", "/nowhere", "--json", places["json_file"]]
    busy = pytest.raises(UsageError, match=r"x\.json: another evaluation is writing it")
    with reserved(Arguments(**places)), busy:
        command("detection", detection, argv)


def start(
    folder: Path, weights: Path, out: Path, *more: str, processes: int = 1, before: tuple = ()
) -> subprocess.Popen:
    """A detection in a process group of its own, as a job manager starts it."""
    options = ["--weights", str(weights), "--data", str(folder), "--json", str(out), *more]
    launcher = ["-m", "train.launch", "--standalone", "--nproc-per-node", str(processes)]
    program = ["-m", "evaluate", "detection", *OPTIONS.split(), *options]
    line = [*before, sys.executable, *(launcher if processes > 1 else []), *program]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, env=environment, start_new_session=True, **pipes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "send"), [(1, os.killpg), (2, os.killpg), (1, os.kill), (2, os.kill)]
)
def test_a_signal_to_one_or_all_saves_and_the_same_command_continues(
    data, weights, tmp_path, processes, send
):
    out, file = tmp_path / "x.json", tmp_path / "x-seed0.pt"
    options = (data / "voc", weights, out, "--workers", "2", "--iterations", "400")
    process = start(*options, processes=processes)
    while not file.exists() and process.poll() is None:
        time.sleep(0.1)
    send(process.pid, signal.SIGTERM)
    time.sleep(0.1)
    if process.poll() is None:  # a second one does no harm
        send(process.pid, signal.SIGTERM)
    printed, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and "Traceback" not in errors, errors
    assert printed.count("the same command continues") == 1 and not out.exists()
    step = torch.load(file, weights_only=True)["step"]
    assert 5 <= step < 400 and f"stopped at step {step} of 400" in printed
    if processes == 1:
        printed, errors = start(*options).communicate(timeout=300)
        assert out.exists() and "VOC 2007's AP" in printed, errors


def test_a_signal_while_testing_ends_with_0(data, weights, tmp_path, monkeypatch):
    places = ["--weights", str(weights), "--data", str(data / "voc")]
    argv = [*OPTIONS.split(), *places, "--iterations", "1", "--json", str(tmp_path / "x.json")]
    signal_at(monkeypatch, signal.SIGTERM, 0, training=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        with pytest.raises(SystemExit) as stopped:
            command("detection", detection, argv)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert stopped.value.code == 0 and [f.name for f in tmp_path.glob("*.*")] == ["x-seed0.pt"]


@pytest.mark.parametrize(
    ("save_every", "bad", "kept"), [(1, 2, "x.pt keeps step 1; "), (1000, 3, "")]
)
def test_what_is_not_finite_ends_the_training_at_its_step(
    data, weights, tmp_path, save_every, bad, kept
):
    images, file = training_images(data, "voc"), tmp_path / "x.pt"
    fast = replace(SCHEDULE, lr=1e12, warmup=0, iterations=19)
    message = rf"the loss is not finite at step {bad}; .*{kept}lower --lr"
    with pytest.raises(UsageError, match=message):
        fit(small(weights, "c4", 1), images, fast, file, {}, replace(CPU, save_every=save_every))
    assert file.exists() == bool(kept)
    if kept:
        state = torch.load(file, weights_only=True)["model"]
        assert all(value.isfinite().all() for value in state.values())


@pytest.mark.slow
@pytest.mark.parametrize("mount", ["-t tmpfs -o size=64k tmpfs", "-o remount,ro,bind"])
def test_a_disk_that_cannot_be_written_is_one_line(data, weights, tmp_path, mount):
    unshare = ["unshare", "--mount", "bash", "-ec"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"]).returncode:
        pytest.skip("needs unshare --mount")
    (tmp_path / "disk").mkdir()
    script = (
        f'mount --bind {tmp_path}/disk {tmp_path}/disk; mount {mount} {tmp_path}/disk; exec "$@"'
    )
    before = (*unshare, script, "x")
    process = start(data / "voc", weights, tmp_path / "disk" / "x.json", before=before)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2 and "Traceback" not in errors, errors
    assert errors.strip().splitlines()[-1].startswith(f"error: {tmp_path}/disk/"), errors


@pytest.mark.slow
def test_two_processes_train_and_detect_what_one_detects(data, weights, tmp_path):
    out, more = tmp_path / "x.json", ["--dataset", "coco", "--model", "mask", "--iterations", "4"]
    results = []
    for processes in (2, 1):  # the finished detector is loaded, and tested, in one process
        process = start(data / "coco", weights, out, *more, processes=processes)
        printed, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert printed.count("written to") == 1 and "masks, COCO's AP" in printed
        results.append(json.loads(out.read_text()))
        out.unlink()
    assert [result["protocol"]["processes"] for result in results] == [2, 1]
    assert results[0]["accuracy"] == results[1]["accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "dataset", "count", "steps"), [("c4", "voc", 6, 200), ("mask", "coco", 2, 250)]
)
def test_it_learns_a_handful_of_images(shared, tmp_path, model, dataset, count, steps):
    """Faster R-CNN C4 on six raccoons, and Mask R-CNN on two images of fruit, learnt by heart from
    random weights."""
    weights = save_backbone(tmp_path / "w.pt", "small_stride2", 16)
    voc_folder(shared, tmp_path / "voc", count, 1)
    coco_folder(shared, tmp_path / "coco", count)
    images = training_images(tmp_path, dataset)
    sides = {"scales": (128,), "test_scale": 128, "longest": 200}
    drops = (int(0.8 * steps),)
    schedule = Schedule(steps, drops, 20, batch=2, precise_bn=10, **sides)
    loaded = load_weights(weights, "small_stride2")
    detector = build(loaded, model, len(images.classes), regions=32, channels=32)
    detector = fit(detector, images, schedule, tmp_path / "x.pt", {}, CPU)
    detections = detect(detector, images, schedule, CPU)
    kinds = ["bbox", "segm"] if model == "mask" else ["bbox"]
    assert min(coco_ap(images.truth, detections, kind)["AP50"] for kind in kinds) > 90
