"""A tiny finished run, a file of weights with a head, and a data set, for every evaluation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from evaluate.backgrounds.variants import SPLITS
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
def moco(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A narrow network (--stem small_stride2) with a projection head, in MoCo's keys."""
    torch.manual_seed(0)
    model = backbone("resnet10", "small_stride2", 4)
    model.fc = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 6))
    file = tmp_path_factory.mktemp("weights") / "moco.pth.tar"
    state = {f"module.encoder_q.{k}": v for k, v in model.state_dict().items()}
    torch.save({"state_dict": state}, file)
    return str(file)
