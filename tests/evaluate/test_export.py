"""Exports, read back by the tool or in its names, give the features they were made from."""

import re

import pytest
import timm
import torch
from torch import nn
from torchvision.models import resnet18, resnet50

from evaluate import export
from tests.conftest import refused
from tests.evaluate.folders import evaluate
from train.network import backbone
from train.weights import load_weights

# of detectron2's build_resnet_backbone -> torchvision's
DETECTRON2 = {
    "stem.conv1.weight": "conv1.weight",
    "stem.conv1.norm.running_mean": "bn1.running_mean",
    "res2.0.shortcut.weight": "layer1.0.downsample.0.weight",
    "res2.0.shortcut.norm.bias": "layer1.0.downsample.1.bias",
    "res3.3.conv1.weight": "layer2.3.conv1.weight",
    "res4.5.conv2.norm.running_var": "layer3.5.bn2.running_var",
    "res5.2.conv3.norm.weight": "layer4.2.bn3.weight",
}


def trained(network):
    for key, value in network.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif key.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1)
    return network.eval()


def exported(to, path, weights):
    return export.evaluate(export.Arguments(to, str(path), weights=str(weights)))


def test_torchvision_and_timm_read_it(tmp_path):
    """A ResNet-18 with its classifier as torchvision saves it, and with a head as MoCo does."""
    network, x = trained(resnet18()), torch.randn(2, 3, 64, 64)
    torch.save(network.state_dict(), tmp_path / "classifier.pth")
    state = network.state_dict() | {"fc.weight": torch.randn(128, 512), "fc.bias": torch.randn(128)}
    state = {f"module.encoder_q.{key}": value for key, value in state.items()}
    torch.save({"state_dict": state, "arch": "resnet18"}, tmp_path / "moco.pth.tar")
    for name, classes in (("classifier.pth", 1000), ("moco.pth.tar", 0)):
        file, path = tmp_path / name, tmp_path / "x.pth"
        assert exported("torchvision", path, file)["classifier"] == bool(classes)
        misses = resnet18().load_state_dict(torch.load(path, weights_only=True), strict=False)
        assert misses == ([] if classes else ["fc.weight", "fc.bias"], [])
        assert load_weights(path).digest() == load_weights(file).digest()
        network.fc = network.fc if classes else nn.Identity()
        for path in (tmp_path / "y.pth", tmp_path / "y.safetensors"):
            exported("timm", path, file)
            places = {"checkpoint_path": str(path)}  # strict is create_model's default
            model = timm.create_model("resnet18", num_classes=classes, **places).eval()
            torch.testing.assert_close(model(x), network(x), rtol=1e-4, atol=1e-4)
            with pytest.raises(RuntimeError, match="fc"):
                timm.create_model("resnet18", num_classes=1000 - classes, **places)


def test_detectron2s_names(tmp_path, capsys):
    state, out = trained(resnet50()).state_dict(), tmp_path / "new" / "x.pth"
    torch.save(state, tmp_path / "r50.pth")
    evaluate(f"export --to detectron2 --weights {tmp_path}/r50.pth --out {out}")
    printed = capsys.readouterr().out
    said = ("265 tensors", "MODEL.RESNETS.STRIDE_IN_1X1 False", "MODEL.RESNETS.DEPTH 50")
    assert all(text in printed for text in said)
    content = torch.load(out, weights_only=True)  # nothing to unpickle
    # what DetectionCheckpointer looks at: "model", and names matched by their ends
    assert set(content) == {"model", "__author__", "matching_heuristics"}
    assert content["__author__"] != "Caffe2" and len(content["model"]) == 265
    parts = r"(stem|res[2-5]\.\d)\.(conv[1-3]|shortcut)(\.norm\.(weight|bias|running_\w+)|\.weight)"
    assert all(re.fullmatch(parts, name) for name in content["model"])
    for name, ours in DETECTRON2.items():
        assert torch.equal(content["model"][name], state[ours])


def test_what_cannot_be_exported_is_said(tmp_path):
    for to, name, weights, message in (
        ("timm", "x.pth", ("resnet18", "small"), "first layer for small"),
        ("detectron2", "x.pth", ("resnet10", "imagenet", 4), "resnet10"),
        ("detectron2", "x.pkl", ("resnet18", "imagenet"), "reads .pth"),
    ):
        torch.save(backbone(*weights).state_dict(), tmp_path / "w.pt")
        assert message in refused(exported, to, tmp_path / name, tmp_path / "w.pt")
        assert not (tmp_path / name).exists()
