"""A small network's random weights, images, and a network's maps of a batch."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from preprocess.estimators.u2net import U2NetP
from preprocess.networks.base import Network


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A file of U²-Net-p's."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "u2netp.pth"
    torch.save(U2NetP().build().state_dict(), path)
    return path


def in_batch(network: Network, images: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Each image's map, all in one batch."""
    architecture = network.architecture
    outputs = network.forward(np.stack([architecture.prepare(image) for image in images]))
    return [architecture.finish(output) for output in outputs]
