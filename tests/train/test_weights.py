"""Checkpoints in the layouts that people have are recognised, and what does not fit is named in one
line."""

from argparse import Namespace

import pytest
import torch
from torch import nn
from torchvision.models import resnet18, resnet34, resnet50, vgg11

from data.cli import UsageError
from train.network import backbone
from train.weights import load_weights, make_head


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(3)
    return resnet18().state_dict()


def renamed(state: dict, prefix: str, keep_fc: bool = False) -> dict:
    return {prefix + k: v for k, v in state.items() if keep_fc or not k.startswith("fc.")}


def numbered(state: dict, prefix: str) -> dict:
    """As torch.nn.Sequential(*list(resnet.children())[:-1]) names the layers."""
    places = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    return {
        f"{prefix}{places[k.split('.')[0]]}.{k.split('.', 1)[1]}": v
        for k, v in state.items()
        if not k.startswith("fc.")
    }


def other(state: dict) -> dict:
    return {k: v + 1 for k, v in state.items()}


def hugging_face(state: dict) -> dict:
    """As transformers' ResNetForImageClassification names the layers."""
    found = {}
    for key, value in state.items():
        part = key.split(".")
        if part[0] == "fc":
            name = f"classifier.1.{part[1]}"
        elif part[0] in ("conv1", "bn1"):
            kind = "convolution" if part[0] == "conv1" else "normalization"
            name = f"resnet.embedder.embedder.{kind}.{part[1]}"
        else:
            block = f"resnet.encoder.stages.{int(part[0][-1]) - 1}.layers.{part[1]}"
            if part[2] == "downsample":
                kind = ("convolution", "normalization")[int(part[3])]
                name = f"{block}.shortcut.{kind}.{part[4]}"
            else:
                kind = "convolution" if part[2].startswith("conv") else "normalization"
                name = f"{block}.layer.{int(part[2][-1]) - 1}.{kind}.{part[3]}"
        found[name] = value
    return found


LAYOUTS = {
    "hugging face": hugging_face,
    "torchvision": lambda s: s,
    "moco": lambda s: {
        "epoch": 200,
        "arch": "resnet18",
        "state_dict": renamed(other(s), "module.encoder_k.")
        | renamed(s, "module.encoder_q.")
        | {
            "module.encoder_q.fc.0.weight": torch.zeros(512, 512),
            "module.encoder_q.fc.0.bias": torch.zeros(512),
            "module.encoder_q.fc.2.weight": torch.zeros(128, 512),
            "module.encoder_q.fc.2.bias": torch.zeros(128),
            "module.queue": torch.zeros(128, 40),
        },
        "optimizer": {"state": {}, "param_groups": []},
    },
    "dino": lambda s: {
        "student": renamed(other(s), "module.backbone."),
        "teacher": renamed(s, "backbone."),
    },
    "lightly": lambda s: {
        "state_dict": numbered(s, "backbone.") | numbered(other(s), "backbone_momentum.")
    },
    "ours": lambda s: {"model": renamed(s, "query.") | renamed(other(s), "key."), "step": 3},
    "simclr": lambda s: {
        "model": renamed(s, "encoder.") | {"projector.0.weight": torch.zeros(3, 3)}
    },
    "half": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_network(layout, plain, tmp_path):
    file = tmp_path / "x.bin"
    torch.save(LAYOUTS[layout](plain), file)
    found = load_weights(file)
    assert (found.network, found.stem, found.width, found.size) == ("resnet18", "imagenet", 64, 224)
    model = resnet18()
    missing, unexpected = model.load_state_dict(found.state, strict=False)
    assert missing == ["fc.weight", "fc.bias"] and unexpected == []
    tolerance = 1e-3 if layout == "half" else 0
    for key, value in found.state.items():
        assert torch.allclose(value, plain[key], atol=tolerance, rtol=tolerance), key


def test_the_built_network_is_torchvisions(plain, tmp_path):
    torch.save(plain, tmp_path / "x.pth")
    theirs = resnet18()
    theirs.load_state_dict(plain)
    theirs.fc = nn.Identity()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(load_weights(tmp_path / "x.pth").build().eval()(x), theirs.eval()(x))


def test_a_hugging_face_classifier_is_one(plain, tmp_path):
    torch.save(hugging_face(plain), tmp_path / "pytorch_model.bin")
    found = load_weights(tmp_path / "pytorch_model.bin")
    assert torch.equal(found.classifier.weight, plain["fc.weight"])


@pytest.mark.parametrize("make", [resnet34, resnet50])
def test_depth_is_told_by_shapes(make, tmp_path):
    torch.save(make().state_dict(), tmp_path / "x.pth")
    assert load_weights(tmp_path / "x.pth").network == make.__name__


def test_timm_and_safetensors(tmp_path):
    timm = pytest.importorskip("timm")
    safetensors = pytest.importorskip("safetensors.torch")
    state = timm.create_model("resnet18", num_classes=10).state_dict()
    safetensors.save_file(state, tmp_path / "model.safetensors")
    found = load_weights(tmp_path / "model.safetensors")
    assert found.network == "resnet18" and torch.equal(
        found.state["conv1.weight"], state["conv1.weight"]
    )
    assert found.classifier is None and found.head.out_features == 10
    (tmp_path / "model.safetensors").rename(tmp_path / "model.pth")  # by its content, not its name
    assert load_weights(tmp_path / "model.pth").digest() == found.digest()


def test_our_small_networks(tmp_path):
    model = backbone("resnet10", "small_stride2", 8)
    torch.save(model.state_dict(), tmp_path / "x.pt")
    found = load_weights(tmp_path / "x.pt", "small_stride2")
    shape = (found.network, found.stem, found.width, found.size)
    assert shape == ("resnet10", "small_stride2", 8, 32)
    assert load_weights(tmp_path / "x.pt").stem == "small"
    model.fc = nn.Identity()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(found.build().eval()(x), model.eval()(x))


def test_classifier_and_projection_head_are_told_apart(plain, tmp_path):
    torch.save(plain, tmp_path / "a.pth")
    found = load_weights(tmp_path / "a.pth")
    assert found.head is None and torch.equal(found.classifier.weight, plain["fc.weight"])
    torch.save(LAYOUTS["moco"](plain), tmp_path / "b.pth")
    found = load_weights(tmp_path / "b.pth")
    assert found.classifier is None
    assert [type(layer).__name__ for layer in found.head] == ["Linear", "ReLU", "Linear"]


def test_a_head_computes_what_its_layers_do():
    torch.manual_seed(0)
    theirs = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    theirs(torch.randn(32, 8))
    x = torch.randn(5, 8)
    assert torch.equal(make_head(theirs.state_dict())(x), theirs.eval()(x))


def changed(plain: dict, **changes) -> dict:
    state = plain | {k.replace("__", "."): v for k, v in changes.items()}
    return {k: v for k, v in state.items() if v is not None}


MISFITS = {
    "2 stages": (
        lambda s: {k: v for k, v in s.items() if not k.startswith("layer4.1")},
        "stages of (2, 2, 2, 1) basic blocks",
    ),
    "keys": (
        lambda s: changed(s, layer1__0__bn1__weight=None, layer1__0__extra=torch.zeros(3)),
        "looks like resnet18 but does not fit; 1 missing: layer1.0.bn1.weight; "
        "1 unexpected: layer1.0.extra",
    ),
    "shapes": (
        lambda s: {k: v[:, :2] if v.ndim == 4 else v for k, v in s.items()},
        "20 of another shape: conv1.weight",
    ),
    "scalar": (
        lambda s: changed(s, conv1__weight=torch.tensor(1.0)),
        "conv1.weight () instead of (64, 3, 7, 7)",
    ),
    "nan": (
        lambda s: changed(s, bn1__weight=torch.full((64,), torch.nan)),
        "1 not finite: bn1.weight",
    ),
    "two": (
        lambda s: {"a": renamed(s, "x."), "b": renamed(s, "y.")},
        "several ResNets (a/x., b/y.",
    ),
    "vgg": (lambda s: vgg11(num_classes=2).features.state_dict(), "no ResNet in it"),
    "code": (lambda s: {"state_dict": s, "args": Namespace(lr=1)}, "object (argparse.Namespace)"),
    "list": (lambda s: [1, 2], "layer1.0.conv1.weight under any name); it has 0 tensors"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_one_line(case, plain, tmp_path):
    content, message = MISFITS[case]
    torch.save(content(plain), tmp_path / "x.pth")
    with pytest.raises(UsageError) as error:
        load_weights(tmp_path / "x.pth")
    text = str(error.value)
    assert message in text and len(text) < 600 and "\n" not in text


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"PK\x03\x04 cut", b"\x80\x02cos\nsystem\n(S'x'\ntR."]
)
def test_damaged_and_hostile_files(content, tmp_path):
    (tmp_path / "x.pth").write_bytes(content)
    (tmp_path / "x.safetensors").write_bytes(content)
    for name in ("x.pth", "x.safetensors"):
        with pytest.raises(UsageError, match=r"not a file of weights|Python object"):
            load_weights(tmp_path / name)
    with pytest.raises(UsageError, match="no such file of weights"):
        load_weights(tmp_path / "absent.pth")
    with pytest.raises(UsageError, match="no run here"):
        load_weights(tmp_path)
