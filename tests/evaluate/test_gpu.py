"""Evaluations on a GPU give what they give on a CPU, within what bfloat16 features cost."""

import pytest
import torch

from tests.evaluate.folders import TINY, evaluate, own_voc, pictures
from train.network import backbone

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
FEW = "--epochs 4 --lr 1 --batch 8 --percent 10 --finetune-epochs 6 --backbone-lr 0.02"
RUNS = {
    "knn --k 5 20": ("5", "20"),
    "linear --epochs 20 --lr 1 --batch 32": ("top-1",),
    "linear --epochs 20 --sweep --batch 32": ("top-1",),
    "linear --protocol optimum": ("top-1",),
    f"few {FEW}": ("10% linear", "10% finetune"),
}


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    root = tmp_path_factory.mktemp("levels")
    classes = {"dark": (50, 50, 50), "grey": (110, 110, 110), "light": (190, 190, 190)}
    pictures(root, classes, (40, 20), 0, 30)
    torch.manual_seed(0)
    torch.save(backbone("resnet10", "small_stride2", 8).state_dict(), root / "x.pth")
    return root


@pytest.mark.parametrize("options", RUNS)
def test_accuracy_is_a_cpus(options, levels, tmp_path):
    line = f"{options} --data {levels} --weights {levels}/x.pth --stem small_stride2 --size 24"
    tops = []
    for device in ("cpu", "cuda"):
        place = f"--workers 2 --device {device} --json {tmp_path}/{device}.json"
        accuracy = evaluate(f"{line} {place}")["accuracy"]
        values = [accuracy[key] for key in RUNS[options]]
        tops.append([v["top-1"] if isinstance(v, dict) else v for v in values])
    assert tops[1] == pytest.approx(tops[0], abs=7) and max(tops[1]) > 70


def test_a_detector_is_a_cpus(tmp_path):
    torch.save(backbone("resnet10", "small_stride2", 16).state_dict(), tmp_path / "w.pth")
    line = f"detection --weights {tmp_path}/w.pth --stem small_stride2 --json {tmp_path}/x.json"
    line += f" --data {own_voc(tmp_path / 'voc')} {TINY} --iterations 60 --device"
    boxes = [evaluate(f"{line} {device}")["accuracy"]["box"] for device in ("cuda", "cpu")]
    assert boxes[1]["AP50"] == pytest.approx(boxes[0]["AP50"], abs=5)
