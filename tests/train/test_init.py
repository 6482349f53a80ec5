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
def theirs() -> dict:
    """Somebody's ResNet of the tests' kind, with a projection head as MoCo v2's."""
    torch.manual_seed(7)
    network = backbone("resnet10", "small", 4)
    network.fc = mlp(32, 32, 128, False)
    return network.state_dict()


def moco(state: dict) -> dict:
    query = {f"module.encoder_q.{key}": value for key, value in state.items()}
    key = {f"module.encoder_k.{key}": value + 1 for key, value in state.items()}
    return {"epoch": 200, "state_dict": key | query | {"module.queue": torch.zeros(128, 9)}}


def headless(state: dict) -> dict:
    return {key: value for key, value in state.items() if not key.startswith("fc.")}


def classifier(state: dict) -> dict:
    return headless(state) | {f"fc.{k}": v for k, v in nn.Linear(32, 10).state_dict().items()}


@pytest.mark.parametrize(
    ("method", "layout", "with_head"),
    [
        ("moco", moco, True),
        ("simclr", moco, True),
        ("byol", moco, False),  # its head has no last bias
        ("instdisc", classifier, False),
        ("byol", headless, False),
    ],
)
def test_a_run_begins_from_weights_of_others(
    theirs, images, tmp_path, capsys, method, layout, with_head
):
    torch.save(layout(theirs), tmp_path / "weights")
    init = {"init": str(tmp_path / "weights"), "method": method, "splits": 1}
    run = begin(config(images, "none", tmp_path / "run", **init), 80, torch.device("cpu"))
    own = run.method.encoder.state_dict()
    taken = theirs if with_head else headless(theirs)
    assert all(torch.equal(own[key], value) for key, value in taken.items())
    assert with_head == torch.equal(own["fc.0.weight"], theirs["fc.0.weight"])
    if method in ("moco", "byol"):
        torch.testing.assert_close(run.method.slow.state_dict(), own, rtol=0, atol=0)
    said = "its projection head too" if with_head else "the projection head begins anew"
    assert f": {len(taken)} of {len(own)} tensors taken, {said}" in capsys.readouterr().out


def test_the_weights_are_part_of_the_run(theirs, images, tmp_path, capsys):
    """The same command continues it; another beginning, or other bytes in the file, are refused."""
    file, moved = tmp_path / "weights", tmp_path / "moved"

    def run(name: str, stop_at: int | None = None, **init: str) -> bool:
        return train(config(images, "none", tmp_path / name, epochs=1, **init), stop_at=stop_at)

    torch.save(moco(theirs), file)
    run("run", 2, init=str(file))
    assert capsys.readouterr().out.count("tensors taken") == 1
    with pytest.raises(UsageError, match=r"another configuration \(init: [0-9a-f]{64} -> none\)"):
        run("run")
    file.rename(moved)
    assert run("run", init=str(moved)) is True
    assert "tensors taken" not in capsys.readouterr().out  # they were, when it began
    run("plain")
    assert losses(tmp_path / "run")[0] != losses(tmp_path / "plain")[0]
    with pytest.raises(UsageError, match=r"\(init: none -> [0-9a-f]{64}\)"):
        run("plain", init=str(moved))
    moved.unlink()
    assert run("run", init=str(moved)) is True
    # a finished run is a beginning too
    assert run("again", 1, init=str(tmp_path / "run")) is False
    assert "head too" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "resnet18"}, "a resnet10 of stem small .*, and the run.s .* resnet18"),
        ({"width": 8}, "and width 4, and the run's backbone is .* and width 8; see --network"),
        ({"stem": "imagenet"}, r"another shape: conv1.weight \(4, 3, 3, 3\) instead of"),
        ({"init": "nowhere"}, "nowhere: no such file of weights"),
    ],
)
def test_weights_of_another_backbone_are_refused(theirs, images, tmp_path, changes, message):
    torch.save(headless(theirs), tmp_path / "weights")
    given = {"init": str(tmp_path / "weights")} | changes
    with pytest.raises(UsageError, match=message):
        train(config(images, "none", tmp_path / "run", **given))
    assert not (tmp_path / "run").exists()
