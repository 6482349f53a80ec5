"""Exports, read back by the tool or by a network in its names, give the features that they were
made from."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet18, resnet50

from data.cli import UsageError
from evaluate import export
from evaluate.common import command
from train.network import backbone
from train.weights import load_weights


def trained(network):
    """Random weights with statistics that matter."""
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 2)
            elif key.endswith(("running_mean", "bias")):
                value.normal_(0, 0.1)
    return network.eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A ResNet-18 with its classifier, as torchvision saves it, and the same as MoCo saves one,
    with a head."""
    root, network = tmp_path_factory.mktemp("files"), trained(resnet18())
    torch.save(network.state_dict(), root / "classifier.pth")
    state = network.state_dict() | {"fc.weight": torch.randn(128, 512), "fc.bias": torch.randn(128)}
    state = {f"module.encoder_q.{key}": value for key, value in state.items()}
    torch.save({"state_dict": state, "arch": "resnet18"}, root / "moco.pth.tar")
    return root, network


def exported(to, path, weights):
    weights = weights and str(weights)
    return export.evaluate(export.Arguments(to=to, out=str(path), weights=weights))


def features(network, x):
    """Pooled ones, of a network in torchvision's or timm's names."""
    x = network.maxpool(F.relu(network.bn1(network.conv1(x))))
    return network.layer4(network.layer3(network.layer2(network.layer1(x)))).mean((2, 3))


@pytest.mark.parametrize(
    ("name", "classifier"), [("classifier.pth", True), ("moco.pth.tar", False)]
)
def test_torchvision_reads_it(files, tmp_path, name, classifier):
    root, network = files
    result = exported("torchvision", tmp_path / "x.pth", root / name)
    assert result["classifier"] is classifier
    model = resnet18().eval()
    misses = model.load_state_dict(torch.load(tmp_path / "x.pth", weights_only=True), strict=False)
    assert misses == ([] if classifier else ["fc.weight", "fc.bias"], [])
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(features(model, x), features(network, x))
    assert torch.equal(model(x), network(x)) is classifier
    assert load_weights(tmp_path / "x.pth").digest() == load_weights(root / name).digest()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize(("name", "classes"), [("classifier.pth", 1000), ("moco.pth.tar", 0)])
def test_timm_loads_it_strictly(files, tmp_path, name, classes, suffix):
    root, network = files
    path = tmp_path / f"x.{suffix}"
    exported("timm", path, root / name)
    # strict is create_model's default
    model = timm.create_model("resnet18", num_classes=classes, checkpoint_path=str(path)).eval()
    x = torch.randn(2, 3, 64, 64)
    expected = network(x) if classes else features(network, x)
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match="fc"):  # what has no classifier is not a classifier
        timm.create_model("resnet18", num_classes=0 if classes else 1000, checkpoint_path=str(path))


class Conv(nn.Conv2d):
    """detectron2.layers.Conv2d: the norm is a child of the convolution."""

    def __init__(self, *args, **options):
        super().__init__(*args, bias=False, **options)
        self.norm = nn.BatchNorm2d(self.out_channels)

    def forward(self, x):
        return self.norm(super().forward(x))


class Bottleneck(nn.Module):
    """detectron2's BottleneckBlock with STRIDE_IN_1X1 False."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.shortcut = Conv(inputs, outputs, 1, stride) if inputs != outputs else None
        self.conv1 = Conv(inputs, outputs // 4, 1)
        self.conv2 = Conv(outputs // 4, outputs // 4, 3, stride, 1)
        self.conv3 = Conv(outputs // 4, outputs, 1)

    def forward(self, x):
        out = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(out + (x if self.shortcut is None else self.shortcut(x)))


class Detectron2ResNet50(nn.Module):
    """The names of detectron2's build_resnet_backbone: stem.conv1, res2 to res5."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Module()
        self.stem.conv1 = Conv(3, 64, 7, 2, 3)
        inputs = 64
        for i, blocks in enumerate((3, 4, 6, 3)):
            outputs = 256 * 2**i
            stage = [
                Bottleneck(outputs if b else inputs, outputs, 2 if i and not b else 1)
                for b in range(blocks)
            ]
            self.add_module(f"res{i + 2}", nn.Sequential(*stage))
            inputs = outputs

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.stem.conv1(x)), 3, 2, 1)
        return self.res5(self.res4(self.res3(self.res2(x)))).mean((2, 3))


def test_a_network_in_detectron2s_names_reads_it(tmp_path):
    network = trained(resnet50())
    torch.save(network.state_dict(), tmp_path / "r50.pth")
    result = exported("detectron2", tmp_path / "x.pth", tmp_path / "r50.pth")
    assert result["settings"]["MODEL.RESNETS.DEPTH"] == 50
    content = torch.load(tmp_path / "x.pth", weights_only=True)  # nothing to unpickle
    # what DetectionCheckpointer looks at: "model", and names matched by their ends
    assert set(content) == {"model", "__author__", "matching_heuristics"}
    assert content["__author__"] != "Caffe2"
    model = Detectron2ResNet50().eval()
    misses = model.load_state_dict(content["model"], strict=False)
    assert not misses.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in misses.missing_keys)
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model(x), features(network, x))


def test_what_cannot_be_exported_is_said(files, tmp_path):
    root, _ = files
    torch.save(backbone("resnet18", "small").state_dict(), tmp_path / "small.pt")
    torch.save(backbone("resnet10", "imagenet", 4).state_dict(), tmp_path / "narrow.pt")
    for to, name, weights, message in (
        ("timm", "x.pth", tmp_path / "small.pt", "first layer for small"),
        ("detectron2", "x.pth", tmp_path / "narrow.pt", "resnet10"),
        ("detectron2", "x.pkl", root / "classifier.pth", "reads .pth"),
        ("timm", "x.pth", None, "either"),
    ):
        with pytest.raises(UsageError, match=message):
            exported(to, tmp_path / name, weights)
        assert not (tmp_path / name).exists()


def test_on_the_command_line(files, tmp_path, capsys):
    root, _ = files
    out = tmp_path / "new" / "x.pth"
    options = ["--to", "detectron2", "--weights", str(root / "moco.pth.tar"), "--out", str(out)]
    command("export", export, options)
    printed = capsys.readouterr().out
    assert "100 tensors" in printed and "MODEL.RESNETS.STRIDE_IN_1X1 False" in printed
    assert out.is_file()
