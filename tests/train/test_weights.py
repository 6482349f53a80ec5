"""Checkpoints in the layouts that people have, and those that do not fit; --init."""

import re
from argparse import Namespace

import pytest
import torch
from torch import nn
from torchvision.models import resnet18, resnet34, resnet50, vgg11

from tests.conftest import refused
from tests.train.runs import config, losses
from train.loop import train
from train.methods.base import mlp
from train.network import backbone
from train.run import begin
from train.weights import Weights, load_weights, make_head

HOSTILE = b"", b"<html>404</html>", b"PK\x03\x04 cut", b"\x80\x02cos\nsystem\n(S'x'\ntR."


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(3)
    return resnet18().state_dict()


@pytest.fixture
def load(tmp_path):
    def call(content: object, *stem: str) -> Weights:
        torch.save(content, tmp_path / "x.bin")
        return load_weights(tmp_path / "x.bin", *stem)

    return call


def without(state: dict, start: str) -> dict:
    return {k: v for k, v in state.items() if not k.startswith(start)}


def renamed(state: dict, prefix: str) -> dict:
    return {prefix + k: v for k, v in without(state, "fc.").items()}


def numbered(state: dict, prefix: str) -> dict:
    """As torch.nn.Sequential(*list(resnet.children())[:-1]) names the layers."""
    places = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    parts = {tuple(k.split(".", 1)): v for k, v in renamed(state, "").items()}
    return {f"{prefix}{places[layer]}.{rest}": v for (layer, rest), v in parts.items()}


def other(state: dict) -> dict:
    return {k: v + 1 for k, v in state.items()}


# torchvision's names -> those of transformers' ResNetForImageClassification
HUGGING_FACE = {
    r"^fc\.": "classifier.1.",
    r"^(conv1|bn1)": r"resnet.embedder.embedder.\1",
    r"^layer(\d)\.(\d)": lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}",
    r"s\.(\d)\.(conv|bn)(\d)": lambda m: f"s.{m[1]}.layer.{int(m[3]) - 1}.{m[2]}1",
    r"downsample\.0|conv1": lambda m: "shortcut." * (m[0] != "conv1") + "convolution",
    r"downsample\.1|bn1": lambda m: "shortcut." * (m[0] != "bn1") + "normalization",
}


def hugging_face(state: dict) -> dict:
    names = {key: key for key in state}
    for pattern, name in HUGGING_FACE.items():
        names = {key: re.sub(pattern, name, names[key]) for key in names}
    return {names[key]: value for key, value in state.items()}


def moco(state: dict) -> dict:
    query = {f"module.encoder_q.{key}": value for key, value in state.items()}
    key = renamed(other(state), "module.encoder_k.")
    return {"epoch": 200, "state_dict": key | query | {"module.queue": torch.zeros(128, 40)}}


LAYOUTS = {
    "hugging face": hugging_face,
    "torchvision": dict,
    "moco": moco,
    "dino": lambda s: {"student": renamed(other(s), "module."), "teacher": renamed(s, "backbone.")},
    "lightly": lambda s: {"state_dict": numbered(s, "one.") | numbered(other(s), "one_momentum.")},
    "ours": lambda s: {"model": renamed(s, "query.") | renamed(other(s), "key."), "step": 3},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_network(layout, plain, load):
    found = load(LAYOUTS[layout](plain))
    assert (found.network, found.stem, found.width, found.size) == ("resnet18", "imagenet", 64, 224)
    torch.testing.assert_close(found.state, renamed(plain, ""), rtol=0, atol=0)
    if layout in ("torchvision", "hugging face"):
        assert found.head is None and torch.equal(found.classifier.weight, plain["fc.weight"])


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


def test_a_head_computes_what_its_layers_do():
    theirs = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    theirs(torch.randn(32, 8))
    x = torch.randn(5, 8)
    assert torch.equal(make_head(theirs.state_dict())(x), theirs.eval()(x))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda s: without(s, "layer4.1"), "stages of (2, 2, 2, 1) basic blocks"),
        (lambda s: without(s, "layer1.0.bn1.w"), "does not fit; 1 missing: layer1.0.bn1.weight"),
        (lambda s: s | {"layer1.0.x": torch.zeros(3)}, "like resnet18 but does not fit; 1 un"),
        (lambda s: {k: v[:, :2] if v.ndim == 4 else v for k, v in s.items()}, "20 of another"),
        (lambda s: s | {"conv1.weight": torch.tensor(1.0)}, "() instead of (64, 3, 7, 7)"),
        (lambda s: s | {"bn1.weight": torch.full((64,), torch.nan)}, "1 not finite: bn1.weight"),
        (lambda s: {"a": renamed(s, "x."), "b": renamed(s, "y.")}, "several ResNets (a/x., b/y."),
        (lambda s: vgg11(num_classes=2).features.state_dict(), "no ResNet in it"),
        (lambda s: {"state_dict": s, "args": Namespace(lr=1)}, "object (argparse.Namespace)"),
        (lambda s: [1, 2], "layer1.0.conv1.weight under any name); it has 0 tensors"),
    ],
)
def test_what_does_not_fit_is_one_line(content, message, plain, load):
    line = refused(load, content(plain))
    assert message in line and len(line) < 600


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_damaged_and_hostile_files(name, tmp_path):
    for content in (*HOSTILE, HOSTILE[2].ljust(5000)):  # torch seeks to before the start of that
        (tmp_path / name).write_bytes(content)
        line = refused(load_weights, tmp_path / name)
        assert "not a file of weights" in line or "Python object" in line
    for place, message in (("absent.pth", "no such file of weights"), ("", "no run here")):
        assert message in refused(load_weights, tmp_path / place)


@pytest.fixture(scope="module")
def theirs() -> dict:
    torch.manual_seed(7)
    network = backbone("resnet10", "small", 4)
    network.fc = mlp(32, 32, 128, False)
    return network.state_dict()


def test_a_stem_that_shapes_do_not_tell_and_a_head_that_is_not_needed(theirs, tmp_path, capsys):
    torch.save(renamed(theirs, "") | {"fc.proj.weight": torch.ones(3)}, tmp_path / "x.pth")
    plain, stride2 = (load_weights(tmp_path / "x.pth", stem) for stem in (None, "small_stride2"))
    of_a_run = Weights("resnet10", "small_stride2", 4, plain.state)  # whose config names its stem
    assert stride2.digest() != plain.digest() == of_a_run.digest()
    assert plain.head is None and plain.classifier is None
    assert capsys.readouterr().err.count("x.pth: a head of layers proj is not") == 1


@pytest.mark.parametrize("method", ["moco", "simclr", "byol", "instdisc"])
def test_a_run_begins_from_weights_of_others(theirs, images, tmp_path, capsys, method):
    with_head = method in ("moco", "simclr")  # byol's head has no last bias
    classifier = {"fc.weight": torch.zeros(10, 32), "fc.bias": torch.zeros(10)}
    content = renamed(theirs, "") | classifier if method == "instdisc" else moco(theirs)
    torch.save(content, tmp_path / "weights")
    init = {"init": str(tmp_path / "weights"), "method": method, "splits": 1}
    run = begin(config(images, "none", tmp_path / "run", **init), 80, torch.device("cpu"))
    own = run.method.encoder.state_dict()
    taken = theirs if with_head else renamed(theirs, "")
    assert all(torch.equal(own[key], value) for key, value in taken.items())
    assert with_head == torch.equal(own["fc.0.weight"], theirs["fc.0.weight"])
    if method in ("moco", "byol"):
        torch.testing.assert_close(run.method.slow.state_dict(), own, rtol=0, atol=0)
    said = "its projection head too" if with_head else "the projection head begins anew"
    assert f": {len(taken)} of {len(own)} tensors taken, {said}" in capsys.readouterr().out


def test_the_weights_are_part_of_the_run(theirs, images, tmp_path, capsys):
    file, moved = tmp_path / "weights", tmp_path / "moved"

    def run(name: str, stop_at: int | None = None, **init: str) -> bool:
        return train(config(images, "none", tmp_path / name, epochs=1, **init), stop_at=stop_at)

    torch.save(moco(theirs), file)
    run("run", 2, init=str(file))
    assert capsys.readouterr().out.count("tensors taken") == 1
    assert re.search(r"another configuration \(init: [0-9a-f]{64} -> none\)", refused(run, "run"))
    file.rename(moved)
    assert run("run", init=str(moved)) is True
    assert "tensors taken" not in capsys.readouterr().out  # they were, when it began
    run("plain")
    assert losses(tmp_path / "run")[0] != losses(tmp_path / "plain")[0]
    assert re.search(r"init: none -> [0-9a-f]{64}\)", refused(run, "plain", init=str(moved)))
    moved.unlink()
    assert run("run", init=str(moved)) is True
    # a finished run is a beginning too, and without its head another one
    assert run("again", 1, init=str(tmp_path / "run")) is False
    said = refused(run, "again", init=str(tmp_path / "run" / "backbone.pt"))
    assert re.search(r"init: [0-9a-f]{64} [0-9a-f]{64} -> [0-9a-f]{64}\)", said)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "resnet18"}, "a resnet10 of stem small .*, and the run.s .* resnet18"),
        ({"width": 8}, "and width 4, and the run's backbone is .* and width 8; see --network"),
        ({"stem": "imagenet"}, r"another shape: conv1.weight \(4, 3, 3, 3\) instead of"),
    ],
)
def test_weights_of_another_backbone_are_refused(theirs, images, tmp_path, changes, message):
    torch.save(theirs, tmp_path / "weights")
    init = {"init": str(tmp_path / "weights")} | changes
    assert re.search(message, refused(train, config(images, "none", tmp_path / "run", **init)))
    assert not (tmp_path / "run").exists()
