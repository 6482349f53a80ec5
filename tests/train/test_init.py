"""--init: a run that begins from weights of others, made up here in the layouts they come in."""

import pytest
import torch
from torch import nn

from data.cli import UsageError
from tests.train.runs import config, losses
from train.loop import train
from train.methods.base import mlp
from train.network import backbone
from train.run import begin


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """Somebody's ResNet of the tests' kind, with a projection head as MoCo v2's."""
    torch.manual_seed(7)
    network = backbone("resnet10", "small", 4)
    network.fc = mlp(32, 32, 128, False)
    return network


def without_head(state: dict) -> dict:
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def moco(state: dict) -> dict:
    query = {f"module.encoder_q.{key}": value for key, value in state.items()}
    key = {f"module.encoder_k.{key}": value + 1 for key, value in state.items()}
    return {"epoch": 200, "state_dict": key | query | {"module.queue": torch.zeros(128, 9)}}


def classifier(classes: int) -> dict:
    return {"fc.weight": torch.zeros(classes, 32), "fc.bias": torch.zeros(classes)}


@pytest.mark.parametrize(
    ("method", "layout", "with_head"),
    [
        ("moco", moco, True),
        ("simclr", moco, True),
        ("byol", moco, False),  # its head has no last bias
        ("moco", lambda state: without_head(state) | classifier(1000), False),  # torchvision's
        ("instdisc", lambda state: without_head(state) | classifier(10), False),  # timm's
        ("byol", without_head, False),
    ],
)
def test_a_run_begins_from_weights_of_others(
    theirs, images, tmp_path, capsys, method, layout, with_head
):
    torch.save(layout(theirs.state_dict()), tmp_path / "weights")
    init = {"init": str(tmp_path / "weights"), "method": method, "splits": 1}
    run = begin(config(images, "none", tmp_path / "run", **init), 80, torch.device("cpu"))
    own, expected = run.method.encoder.state_dict(), theirs.state_dict()
    taken = expected if with_head else without_head(expected)
    assert all(torch.equal(own[key], value) for key, value in taken.items())
    if not with_head:
        assert not torch.equal(own["fc.0.weight"], expected["fc.0.weight"])
    if method in ("moco", "byol"):
        assert all(torch.equal(v, own[k]) for k, v in run.method.slow.state_dict().items())
    said = "its projection head too" if with_head else "the projection head begins anew"
    assert f": {len(taken)} of {len(own)} tensors taken, {said}" in capsys.readouterr().out


def test_the_weights_are_part_of_the_run(theirs, images, tmp_path, capsys):
    """The same command continues it; another beginning, or other bytes in the file, are refused."""
    file, out = tmp_path / "weights", tmp_path / "run"
    torch.save(moco(theirs.state_dict()), file)
    run = config(images, "none", out, init=str(file), epochs=1)
    train(run, stop_at=2)
    assert capsys.readouterr().out.count("tensors taken") == 1
    with pytest.raises(UsageError, match=r"another configuration \(init: [0-9a-f]{64} -> none\)"):
        train(config(images, "none", out, epochs=1))
    file.rename(tmp_path / "moved")
    assert train(config(images, "none", out, init=str(tmp_path / "moved"), epochs=1)) is True
    assert "tensors taken" not in capsys.readouterr().out  # they were, when it began
    train(config(images, "none", tmp_path / "plain", epochs=1))
    assert losses(out)[0] != losses(tmp_path / "plain")[0]
    with pytest.raises(UsageError, match=r"\(init: none -> [0-9a-f]{64}\)"):
        train(config(images, "none", tmp_path / "plain", init=str(tmp_path / "moved"), epochs=1))
    (tmp_path / "moved").unlink()
    assert train(config(images, "none", out, init=str(tmp_path / "moved"), epochs=1)) is True
    # a finished run is a beginning too
    again = config(images, "none", tmp_path / "again", init=str(out))
    assert train(again, stop_at=1) is False and "head too" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"network": "resnet18"},
            "a resnet10 of stem small .*, and the run.s .* resnet18",
        ),
        ({"width": 8}, "and width 4, and the run's backbone is .* and width 8; see --network"),
        ({"stem": "imagenet"}, r"another shape: conv1.weight \(4, 3, 3, 3\) instead of"),
        ({"init": "nowhere"}, "nowhere: no such file of weights"),
    ],
)
def test_weights_of_another_backbone_are_refused(theirs, images, tmp_path, changes, message):
    torch.save(without_head(theirs.state_dict()), tmp_path / "weights")
    given = {"init": str(tmp_path / "weights")} | changes
    with pytest.raises(UsageError, match=message):
        train(config(images, "none", tmp_path / "run", **given))
    assert not (tmp_path / "run").exists()
