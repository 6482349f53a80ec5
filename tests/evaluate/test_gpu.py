"""Evaluations on a GPU give what they give on a CPU, within what bfloat16 features cost."""

import signal

import cv2
import numpy as np
import pytest
import torch

from data.synthetic.dataset import Scenes, make
from evaluate.detection.average_precision import coco_ap
from evaluate.detection.models import build
from evaluate.detection.schedules import Runtime, Schedule
from evaluate.detection.testing import detect
from evaluate.detection.training import fit
from evaluate.detection.voc import read_voc
from evaluate.diagnose import command as diagnose
from evaluate.probes import few, knn, linear
from tests.evaluate.detection.folders import signal_at, voc_folder
from tests.train.runs import config
from train.loop import train
from train.network import backbone
from train.weights import load_weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    """Three classes told apart by brightness, and a small random network."""
    root = tmp_path_factory.mktemp("levels")
    rng = np.random.default_rng(0)
    for folder, count in (("train", 40), ("val", 20)):
        for name, level in (("dark", 50), ("grey", 110), ("light", 190)):
            (root / folder / name).mkdir(parents=True)
            for i in range(count):
                image = np.clip(rng.normal(level, 30, (24, 24, 3)), 0, 255).astype(np.uint8)
                cv2.imwrite(str(root / folder / name / f"{name}_{i:02d}.png"), image)
    torch.manual_seed(0)
    torch.save(backbone("resnet10", "small_stride2", 8).state_dict(), root / "x.pth")
    return root


@pytest.mark.parametrize(
    ("evaluation", "options"),
    [
        (knn, {"k": (5, 20)}),
        (linear, {"epochs": 20, "lr": 1.0, "batch": 32}),
        (linear, {"sweep": True, "epochs": 20, "batch": 32}),
        (linear, {"protocol": "optimum"}),
        (
            few,
            {
                "percent": (10.0,),
                "epochs": 4,
                "finetune_epochs": 6,
                "batch": 8,
                "lr": 1.0,
                "backbone_lr": 0.02,
            },
        ),
    ],
    ids=["knn", "linear", "sweep", "optimum", "few"],
)
def test_accuracy_is_a_cpus(evaluation, options, levels, tmp_path):
    found = {}
    for device in ("cpu", "cuda"):
        options = {
            "data": str(levels),
            "weights": str(levels / "x.pth"),
            "stem": "small_stride2",
            "size": 24,
            "device": device,
            "workers": 2,
            "json_file": str(tmp_path / f"{device}.json"),
            **options,
        }
        result = evaluation.evaluate(evaluation.Arguments(**options))
        found[device] = [
            v["top-1"] if isinstance(v, dict) else v
            for k, v in result["accuracy"].items()
            if k not in ("per_class", "by_lr", "held_out")
        ]
    assert found["cpu"] and found["cuda"] == pytest.approx(found["cpu"], abs=7)
    assert max(found["cuda"]) > 70


def test_diagnosis_and_backgrounds(tmp_path):
    scenes = tmp_path / "scenes"
    make(scenes, Scenes(train=120, probe=40, test=40))
    run = config(scenes, "none", tmp_path / "run", epochs=1, device="cuda")
    train(run)
    found = {}
    for device in ("cpu", "cuda"):
        arguments = diagnose.Arguments((run.out,), str(scenes), device=device, examples=0)
        told = diagnose.evaluate(arguments)
        found[device] = told["runs"][run.out]["accuracy"]
    for name, value in found["cpu"].items():  # 40 queries: one is 2.5 points
        assert found["cuda"][name] == pytest.approx(
            value, abs=8 if name in ("knn", "linear") else 20
        ), name


def test_a_detector_learns(shared, tmp_path, monkeypatch):
    """Six raccoons by heart, begun on the GPU, saved, continued there, and tested on both
    devices."""
    torch.manual_seed(0)
    torch.save(
        {
            k: v
            for k, v in backbone("resnet10", "small_stride2", 16).state_dict().items()
            if not k.startswith("fc.")
        },
        tmp_path / "w.pt",
    )
    images = read_voc(voc_folder(shared, tmp_path / "voc", 6, 1))[0]
    schedule = Schedule(
        200, (160,), 20, (128,), lr=0.02, batch=2, test_scale=128, longest=200, precise_bn=10
    )
    loaded = load_weights(tmp_path / "w.pt", "small_stride2")
    model = build(loaded, "c4", len(images.classes), regions=32, channels=32)
    gpu, cpu = Runtime(torch.device("cuda")), Runtime(torch.device("cpu"))
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        signal_at(patch, signal.SIGTERM, 119)
        fit(model, images, schedule, tmp_path / "x.pt", {}, gpu)
    model = build(loaded, "c4", len(images.classes), regions=32, channels=32)
    model = fit(model, images, schedule, tmp_path / "x.pt", {}, gpu)
    there = coco_ap(images.truth, detect(model, images, schedule, gpu))["AP50"]
    here = coco_ap(images.truth, detect(model.cpu(), images, schedule, cpu))["AP50"]
    assert there > 80 and here == pytest.approx(there, abs=5)
