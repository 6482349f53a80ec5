"""Detectors: their sizes and weights, how regions are read; training resumed bit for bit."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models import resnet50
from torchvision.models.detection import fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn

from data.stopping import Stopping
from evaluate.detection import command as detection
from evaluate.detection.models import AlignedRegions
from evaluate.detection.views import GroupedBatches, Views
from tests.conftest import execute, refused
from tests.evaluate.folders import TINY, command_line, evaluate, own_voc, signal_when
from train.network import backbone
from train.weights import Weights, load_weights

CPU = detection.Runtime(torch.device("cpu"))
SHORT = {"scales": (48, 64), "test_scale": 64, "longest": 120}
SCHEDULE = detection.Schedule(5, (3, 4), 2, lr=0.005, batch=2, precise_bn=2, **SHORT)


def save_backbone(path: Path, stem: str, width: int) -> Path:
    torch.manual_seed(7)  # not what an untrained network begins with
    torch.save(backbone("resnet10", stem, width).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_backbone(tmp_path_factory.mktemp("weights") / "tiny.pt", "imagenet", 4)


def small(weights, model: str, classes: int, seed: int = 0, untrained: bool = False):
    sizes = {"regions": 16, "channels": 8}
    return detection.build(load_weights(weights), model, classes, seed, untrained, **sizes)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def c4(weights: None, weights_backbone: None, num_classes: int) -> nn.Module:
    """What a C4 detector has: ResNet-50 without fc, proposals, a norm, classes and boxes."""
    rpn = [nn.Conv2d(1024, 1024, 3), nn.Conv2d(1024, 15, 1), nn.Conv2d(1024, 15 * 4, 1)]
    head = [nn.BatchNorm2d(2048), nn.Linear(2048, num_classes), nn.Linear(2048, num_classes * 4)]
    return nn.Sequential(*list(resnet50().children())[:-1], *rpn, *head)


@pytest.mark.parametrize(
    ("model", "reference", "norms"),
    [("c4", c4, 0), ("fpn", fasterrcnn_resnet50_fpn, 8), ("mask", maskrcnn_resnet50_fpn, 8 + 4)],
)
def test_everything_but_fc_is_taken_and_trained(weights, model, reference, norms):
    with torch.device("meta"):  # no numbers
        empty = detection.build(Weights("resnet50", "imagenet", 64, {}), model, 20, untrained=True)
        theirs = reference(weights=None, weights_backbone=None, num_classes=21)
    # each norm brings 256 weights and makes 256 biases of a convolution its own
    assert count(empty) == count(theirs) + 256 * norms
    detector, other = (small(weights, model, 20, seed) for seed in (0, 1))
    assert all(p.requires_grad for p in detector.parameters())
    assert not any(type(m).__name__ == "FrozenBatchNorm2d" for m in detector.modules())
    trunk, head = ("backbone", "roi_heads.box_head") if model == "c4" else ("backbone.body",) * 2
    state, drawn = detector.state_dict(), other.state_dict()
    for key, value in load_weights(weights).state.items():
        place = f"{head if key.startswith('layer4') else trunk}.{key}"
        assert torch.equal(state[place], value) and torch.equal(drawn[place], value)
    first = "rpn.head.conv.0.0.weight"
    assert not torch.equal(state[first], drawn[first])  # new layers come from the seed
    random = small(weights, model, 20, untrained=True).state_dict()
    assert not torch.equal(state[f"{trunk}.conv1.weight"], random[f"{trunk}.conv1.weight"])


def test_images_are_only_normalised_and_padded_and_regions_read_where_they_are(weights):
    model = small(weights, "c4", 1)
    images = [torch.rand(3, 40, 70), torch.rand(3, 64, 50)]
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    batch, _ = model.transform([image.clone() for image in images])
    expected = torch.zeros(2, 3, 64, 96)
    for place, image in zip(expected, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = (image - mean) / deviation
    torch.testing.assert_close(batch.tensors, expected)
    assert batch.image_sizes == [(40, 70), (64, 50)]
    # what is read is where: position i is the centre of image pixels 16 i to 16 i + 16
    ramp = torch.arange(40.0)
    features = torch.stack([ramp.expand(30, 40), ramp[:30, None].expand(30, 40)])[None]
    box = torch.tensor([[100.0, 60.0, 421.0, 300.0]])
    read = AlignedRegions(16)({"0": features}, [box], [(480, 640)])
    bins = (torch.arange(14) + 0.5) / 14
    torch.testing.assert_close(read[0, 0, 3], (100 + 321 * bins) / 16 - 0.5)
    torch.testing.assert_close(read[0, 1, :, 5], (60 + 240 * bins) / 16 - 0.5)


@pytest.mark.parametrize("model", ["c4", "mask"])
def test_stopped_and_continued_bit_for_bit(squares, weights, tmp_path, monkeypatch, model):
    number, code = (signal.SIGTERM, 0) if model == "c4" else (signal.SIGINT, 130)
    whole, part = tmp_path / "whole.pt", tmp_path / "part.pt"

    def trained(file: Path, seed: int = 0, workers: int = 0, lr: float = 0.005) -> dict:
        schedule, runtime = replace(SCHEDULE, lr=lr), replace(CPU, workers=workers)
        detector = small(weights, model, 2, seed)
        return detection.fit(detector, squares, schedule, file, {}, runtime).state_dict()

    expected = trained(whole)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        signal_when(patch, Views, "view", number, lambda _, step, row: step == 1)
        trained(part)
    assert stopped.value.code == code and torch.load(part, weights_only=True)["step"] == 2
    torch.rand(7)  # the global generator is wherever it is
    for state in (trained(part, seed=5, workers=1), trained(part)):
        assert all(torch.equal(state[key], expected[key]) for key in expected)
    first = small(weights, model, 2).state_dict()
    unmoved = [k for k in first if torch.equal(first[k], expected[k]) and first[k].ndim > 1]
    assert not unmoved  # everything is trained, from the first layer on
    assert "lr: 0.005 -> 0.1" in refused(trained, part, lr=0.1)


def test_precise_statistics_are_means_over_batches(squares, weights, tmp_path):
    detectors, outputs = [], []
    for batches in (3, 0):
        schedule, file = replace(SCHEDULE, precise_bn=batches), tmp_path / f"{batches}.pt"
        detectors.append(detection.fit(small(weights, "c4", 2), squares, schedule, file, {}, CPU))
    norm, other = (detector.backbone.bn1 for detector in detectors)
    other.register_forward_pre_hook(lambda _, inputs: outputs.append(inputs[0]))
    for items in GroupedBatches(squares, SCHEDULE, 8, 5):
        views = Views(squares, SCHEDULE, True).__getitems__(items)
        with torch.no_grad():
            detectors[1].train()([image / 255 for image, _ in views], [t for _, t in views])
    mean = torch.stack([out.mean((0, 2, 3)) for out in outputs]).mean(0)
    variance = torch.stack([out.var((0, 2, 3)) for out in outputs]).mean(0)
    torch.testing.assert_close(norm.running_mean, mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(norm.running_var, variance, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(norm.running_mean, other.running_mean, rtol=1e-3)


def test_a_result_has_its_protocol_and_repeats_over_seeds(weights, tmp_path, capsys):
    line = f"detection --weights {weights} --data {own_voc(tmp_path / 'voc')} --seeds 2 --batch 2"
    line += " --iterations 2 --scales 48 --test-scale 48 --regions 16 --precise-bn 1 --json "
    results = [evaluate(f"{line} {tmp_path}/x.json") for _ in range(2)]  # kept ones, again
    result, protocol = results[0], results[0]["protocol"]
    assert results[1] == result and result["evaluation"] == "detection-voc-c4"
    assert set(result["accuracy"]) == {"box", "voc07"} and len(result["per_seed"]) == 2
    assert set(result["deviation"]["box"]) == {"AP", "AP50", "AP75", "per_class"}
    expected = {"iterations": 2, "batch": 2, "lr": 0.0025, "scales": [48], "train_images": 1}
    expected |= {"test_images": 1, "classes": 1, "schedule": "voc_24k", "precision": "float32"}
    expected["changed"] = ["batch", "iterations", "scales", "test_scale", "precise_bn"]
    assert protocol | expected == protocol
    assert "boxes, VOC 2007's AP (11 points): AP " in capsys.readouterr().out
    assert (tmp_path / "x-seed1.pt").is_file()


def test_a_signal_while_testing_ends_with_0(weights, tmp_path, monkeypatch):
    options = f"--weights {weights} --data {own_voc(tmp_path / 'voc')} {TINY} --iterations 1"
    signal_when(monkeypatch, Views, "view", signal.SIGTERM, lambda views, *_: not views.training)
    with Stopping(), pytest.raises(SystemExit) as stopped:  # the former puts the handlers back
        evaluate(f"detection {options} --json {tmp_path}/x.json")
    assert stopped.value.code == 0 and [f.name for f in tmp_path.glob("*.*")] == ["x-seed0.pt"]


@pytest.mark.slow
def test_two_processes_train_and_detect_what_one_detects(squares, weights, tmp_path):
    options = f"--weights {weights} --data {squares.folder.parent} --json {tmp_path}/x.json {TINY}"
    options += " --dataset coco --model mask --iterations 4"
    line = command_line("detection", *options.split(), processes=2)
    done = execute(line)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written to") == 1 and "masks, COCO's AP" in done.stdout
    two = json.loads((tmp_path / "x.json").read_text())
    one = evaluate(f"detection {options}")  # the finished detector is loaded, and tested
    assert (two["protocol"]["processes"], one["protocol"]["processes"]) == (2, 1)
    assert one["accuracy"] == two["accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "kinds"), [("c4", ["bbox"]), ("mask", ["bbox", "segm"])])
def test_it_learns_the_squares(squares, tmp_path, model, kinds):
    loaded = load_weights(save_backbone(tmp_path / "w.pt", "small_stride2", 16), "small_stride2")
    schedule = detection.Schedule(200, (160,), 20, (128,), batch=2, test_scale=128, precise_bn=10)
    detector = detection.build(loaded, model, 2, regions=32, channels=32)
    detector = detection.fit(detector, squares, schedule, tmp_path / "x.pt", {}, CPU)
    detections = detection.detect(detector, squares, schedule, CPU)
    assert min(detection.coco_ap(squares.truth, detections, kind)["AP50"] for kind in kinds) > 90
