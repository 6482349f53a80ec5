"""Evaluations on a GPU give what they give on a CPU, within what bfloat16 features cost."""

import json

import pytest
import torch

from evaluate.common import command
from evaluate.detection import command as detection
from evaluate.probes import few, knn, linear
from tests.evaluate.folders import TINY, own_voc, pictures
from train.network import backbone

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    """Three classes told apart by brightness, and a small random network."""
    root = tmp_path_factory.mktemp("levels")
    classes = {"dark": (50, 50, 50), "grey": (110, 110, 110), "light": (190, 190, 190)}
    pictures(root, classes, (40, 20), 0, 30)
    torch.manual_seed(0)
    torch.save(backbone("resnet10", "small_stride2", 8).state_dict(), root / "x.pth")
    return root


FEW = {"percent": (10.0,), "epochs": 4, "finetune_epochs": 6, "backbone_lr": 0.02}


@pytest.mark.parametrize(
    ("evaluation", "options"),
    [
        (knn, {"k": (5, 20)}),
        (linear, {"epochs": 20, "lr": 1.0, "batch": 32}),
        (linear, {"sweep": True, "epochs": 20, "batch": 32}),
        (linear, {"protocol": "optimum"}),
        (few, {"batch": 8, "lr": 1.0, **FEW}),
    ],
    ids=["knn", "linear", "sweep", "optimum", "few"],
)
def test_accuracy_is_a_cpus(evaluation, options, levels, tmp_path):
    common = {"data": str(levels), "weights": f"{levels}/x.pth", "stem": "small_stride2"}
    common |= {"size": 24, "workers": 2}
    tops = {}
    for device in ("cpu", "cuda"):
        places = {"device": device, "json_file": str(tmp_path / f"{device}.json")}
        result = evaluation.evaluate(evaluation.Arguments(**common, **places, **options))
        values = [
            v["top-1"] if isinstance(v, dict) else v
            for k, v in result["accuracy"].items()
            if k not in ("per_class", "by_lr", "held_out")
        ]
        tops[device] = values
    assert tops["cpu"] and tops["cuda"] == pytest.approx(tops["cpu"], abs=7)
    assert max(tops["cuda"]) > 70


def test_a_detector_is_a_cpus(tmp_path):
    """Begun and kept on the GPU, tested there and on the CPU."""
    torch.save(backbone("resnet10", "small_stride2", 16).state_dict(), tmp_path / "w.pth")
    options = f"--weights {tmp_path}/w.pth --stem small_stride2 --json {tmp_path}/x.json {TINY}"
    options += f" --data {own_voc(tmp_path / 'voc')} --iterations 60"
    tops = []
    for device in ("cuda", "cpu"):
        command("detection", detection, [*options.split(), "--device", device])
        tops.append(json.loads((tmp_path / "x.json").read_text())["accuracy"]["box"]["AP50"])
    assert tops[1] == pytest.approx(tops[0], abs=5)
