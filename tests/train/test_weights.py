"""Checkpoints in the layouts that people have are recognised, and what does not fit is named in one
line."""

from argparse import Namespace

import pytest
import torch
from torch import nn
from torchvision.models import resnet18, resnet34, resnet50, vgg11

from data.cli import UsageError
from train.network import backbone
from train.weights import Weights, load_weights, make_head


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(3)
    return resnet18().state_dict()


@pytest.fixture
def load(tmp_path):
    """(content of a file, stem) -> what load_weights takes it for."""

    def call(content: object, *stem: str) -> Weights:
        torch.save(content, tmp_path / "x.bin")
        return load_weights(tmp_path / "x.bin", *stem)

    return call


def renamed(state: dict, prefix: str) -> dict:
    return {prefix + k: v for k, v in state.items() if not k.startswith("fc.")}


def numbered(state: dict, prefix: str) -> dict:
    """As torch.nn.Sequential(*list(resnet.children())[:-1]) names the layers."""
    places = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    parts = {tuple(k.split(".", 1)): v for k, v in renamed(state, "").items()}
    return {f"{prefix}{places[layer]}.{rest}": v for (layer, rest), v in parts.items()}


def other(state: dict) -> dict:
    return {k: v + 1 for k, v in state.items()}


def hugging_face(state: dict) -> dict:
    """As transformers' ResNetForImageClassification names the layers."""
    names = {}
    for key in state:
        layer, *rest, last = key.split(".")
        kind = (
            "convolution" if "conv" in key or key.endswith("sample.0.weight") else "normalization"
        )
        if layer == "fc":
            names[key] = f"classifier.1.{last}"
        elif not rest:
            names[key] = f"resnet.embedder.embedder.{kind}.{last}"
        else:
            within = f"layer.{int(rest[1][-1]) - 1}" if rest[1] != "downsample" else "shortcut"
            block = f"resnet.encoder.stages.{int(layer[-1]) - 1}.layers.{rest[0]}"
            names[key] = f"{block}.{within}.{kind}.{last}"
    return {name: state[key] for key, name in names.items()}


def moco(state: dict) -> dict:
    head = {f"fc.{i}.weight": torch.zeros(n, 512) for i, n in ((0, 512), (2, 128))}
    query = renamed(state, "module.encoder_q.")
    query |= {f"module.encoder_q.{key}": value for key, value in head.items()}
    key = renamed(other(state), "module.encoder_k.")
    return {"epoch": 200, "state_dict": key | query | {"module.queue": torch.zeros(128, 40)}}


LAYOUTS = {
    "hugging face": hugging_face,
    "torchvision": dict,
    "moco": moco,
    "dino": lambda s: {
        "student": renamed(other(s), "module.backbone."),
        "teacher": renamed(s, "backbone."),
    },
    "lightly": lambda s: {
        "state_dict": numbered(s, "backbone.") | numbered(other(s), "backbone_momentum.")
    },
    "ours": lambda s: {"model": renamed(s, "query.") | renamed(other(s), "key."), "step": 3},
    "half": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_network(layout, plain, load):
    found = load(LAYOUTS[layout](plain))
    assert (found.network, found.stem, found.width, found.size) == ("resnet18", "imagenet", 64, 224)
    tolerance = 1e-3 if layout == "half" else 0
    wanted = renamed(plain, "")
    torch.testing.assert_close(found.state, wanted, rtol=tolerance, atol=tolerance)
    if layout in ("torchvision", "hugging face"):
        assert found.head is None and torch.equal(found.classifier.weight, plain["fc.weight"])
    elif layout == "moco":
        kinds = [type(layer) for layer in found.head]
        assert found.classifier is None and kinds == [nn.Linear, nn.ReLU, nn.Linear]


@pytest.mark.parametrize("make", [resnet18, resnet34, resnet50])
def test_the_built_network_is_torchvisions(make, load):
    theirs = make()
    found = load(theirs.state_dict())
    theirs.fc = nn.Identity()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(found.build().eval()(x), theirs.eval()(x))
    assert found.network == make.__name__


def test_timm_and_safetensors(tmp_path):
    timm = pytest.importorskip("timm")
    safetensors = pytest.importorskip("safetensors.torch")
    state = timm.create_model("resnet18", num_classes=10).state_dict()
    safetensors.save_file(state, tmp_path / "model.safetensors")
    found = load_weights(tmp_path / "model.safetensors")
    torch.testing.assert_close(found.state, renamed(state, ""), rtol=0, atol=0)
    assert found.classifier is None and found.head.out_features == 10
    (tmp_path / "model.safetensors").rename(tmp_path / "model.pth")  # by its content, not its name
    assert load_weights(tmp_path / "model.pth").digest() == found.digest()


def test_our_small_networks(load):
    model = backbone("resnet10", "small_stride2", 8)
    found = load(model.state_dict(), "small_stride2")
    shape = (found.network, found.stem, found.width, found.size)
    assert shape == ("resnet10", "small_stride2", 8, 32)
    assert load(model.state_dict()).stem == "small"
    model.fc = nn.Identity()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(found.build().eval()(x), model.eval()(x))


def test_a_head_computes_what_its_layers_do():
    theirs = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    theirs(torch.randn(32, 8))
    x = torch.randn(5, 8)
    assert torch.equal(make_head(theirs.state_dict())(x), theirs.eval()(x))


def without(state: dict, start: str) -> dict:
    return {k: v for k, v in state.items() if not k.startswith(start)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda s: without(s, "layer4.1"), "stages of (2, 2, 2, 1) basic blocks"),
        (lambda s: without(s, "layer1.0.bn1.w"), "does not fit; 1 missing: layer1.0.bn1.weight"),
        (
            lambda s: s | {"layer1.0.x": torch.zeros(3)},
            "looks like resnet18 but does not fit; 1 un",
        ),
        (
            lambda s: {k: v[:, :2] if v.ndim == 4 else v for k, v in s.items()},
            "20 of another shape",
        ),
        (lambda s: s | {"conv1.weight": torch.tensor(1.0)}, "() instead of (64, 3, 7, 7)"),
        (lambda s: s | {"bn1.weight": torch.full((64,), torch.nan)}, "1 not finite: bn1.weight"),
        (lambda s: {"a": renamed(s, "x."), "b": renamed(s, "y.")}, "several ResNets (a/x., b/y."),
        (lambda s: vgg11(num_classes=2).features.state_dict(), "no ResNet in it"),
        (lambda s: {"state_dict": s, "args": Namespace(lr=1)}, "object (argparse.Namespace)"),
        (lambda s: [1, 2], "layer1.0.conv1.weight under any name); it has 0 tensors"),
    ],
)
def test_what_does_not_fit_is_one_line(content, message, plain, load):
    with pytest.raises(UsageError) as error:
        load(content(plain))
    text = str(error.value)
    assert message in text and len(text) < 600 and "\n" not in text


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"PK\x03\x04 cut", b"\x80\x02cos\nsystem\n(S'x'\ntR."]
)
def test_damaged_and_hostile_files(content, tmp_path):
    for name in ("x.pth", "x.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=r"not a file of weights|Python object"):
            load_weights(tmp_path / name)
    with pytest.raises(UsageError, match="no such file of weights"):
        load_weights(tmp_path / "absent.pth")
    with pytest.raises(UsageError, match="no run here"):
        load_weights(tmp_path)
