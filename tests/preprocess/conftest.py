"""A folder of images that a test may change, and a whole cache of the unchanged ones."""

import shutil
from pathlib import Path

import pytest

from tests.preprocess.runs import run


@pytest.fixture
def root(images, tmp_path) -> Path:
    return Path(shutil.copytree(images / "train", tmp_path / "train"))


@pytest.fixture(scope="session")
def whole(images) -> Path:
    run(images / "train", images / "cache-whole")
    return images / "cache-whole"


@pytest.fixture
def cache(whole, tmp_path) -> Path:
    """A copy of the whole cache."""
    return Path(shutil.copytree(whole, tmp_path / "cache"))
