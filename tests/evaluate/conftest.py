"""A tiny finished run, a file of weights with a head, and data sets, for every evaluation."""

from pathlib import Path

import pytest
import torch
from torch import nn

from evaluate.backgrounds.variants import SPLITS
from evaluate.detection.annotations import AnnotatedImages
from evaluate.detection.coco import read_coco
from tests.evaluate import folders
from tests.train.runs import config
from train.loop import train
from train.network import backbone


@pytest.fixture(scope="session")
def trained(images: Path, truth_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a run of one epoch, with a projection head."""
    out = tmp_path_factory.mktemp("runs") / "run"
    train(config(images, truth_cache, out, epochs=1))
    return str(out)


@pytest.fixture(scope="session")
def data(images: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data set whose splits are all the same folder of 80 images in two classes."""
    root = tmp_path_factory.mktemp("data")
    for folder in ("train", "val", "probe", *SPLITS):
        (root / folder).symlink_to(images / "train")
    return str(root)


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Pictures of one colour each (a crop changes nothing), in three classes that overlap."""
    classes = {"a": (60, 120, 120), "b": (120, 60, 120), "c": (120, 120, 60)}
    return folders.pictures(tmp_path_factory.mktemp("colours"), classes, (20, 7), 45, 0)


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> AnnotatedImages:
    root = folders.squares(tmp_path_factory.mktemp("squares") / "coco")
    file = root / "annotations" / "instances_train2017.json"
    return read_coco(file, root / "train2017", "squares", outlines=True)


@pytest.fixture(scope="session")
def moco(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A narrow network (--stem small_stride2) with a projection head, in MoCo's keys."""
    torch.manual_seed(0)
    model = backbone("resnet10", "small_stride2", 4)
    model.fc = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 6))
    file = tmp_path_factory.mktemp("weights") / "moco.pth.tar"
    state = {f"module.encoder_q.{k}": v for k, v in model.state_dict().items()}
    torch.save({"state_dict": state}, file)
    return str(file)


@pytest.fixture(scope="session")
def network(moco: str) -> dict[str, str | int]:
    return {"weights": moco, "stem": "small_stride2", "device": "cpu", "workers": 0}
