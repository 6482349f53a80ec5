"""Folders of images, whole caches, and a small network's random weights."""

import shutil
from pathlib import Path

import pytest
import torch

from preprocess.estimators.u2net import U2NetP
from tests.preprocess.runs import run


@pytest.fixture
def root(images, tmp_path) -> Path:
    return Path(shutil.copytree(images / "train", tmp_path / "train"))


@pytest.fixture
def many(images, tmp_path) -> Path:
    for copy in range(12):
        shutil.copytree(images / "train", tmp_path / "many" / f"{copy:02d}")
    return tmp_path / "many"


@pytest.fixture(scope="session")
def whole(images) -> Path:
    run(images / "train", images / "cache-whole")
    return images / "cache-whole"


@pytest.fixture
def cache(root, tmp_path) -> Path:
    run(root, tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "u2netp.pth"
    torch.save(U2NetP().build().state_dict(), path)
    return path
