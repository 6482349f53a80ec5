"""`selftaught`: our small network, trained on unsupervised maps alone; it sees a picture and four cues.

How it is trained, and what it reaches: docs/selftaught.md. The weights are made by `make selftaught`; no mask that a
human drew is in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from preprocess.networks.weights import Source
from preprocess.selftaught.cues import cues, squashed

if TYPE_CHECKING:
    from torch import Tensor, nn

VERSION = 2
PARAMETERS = {"side": 128}
WEIGHTS = Source(("selftaught.pt",), "`make selftaught IMAGES=... OUT=...`")


def prepare(image: np.ndarray, side: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB to (7, side, side) uint8: the squashed picture and its four cues."""
    return np.concatenate([squashed(image, side).transpose(2, 0, 1), cues(image, side)])


def build(state: dict | None = None, side: int = 128) -> nn.Module:
    from preprocess.selftaught.network import Net

    return Net()


def run(network: nn.Module, batch: Tensor, side: int) -> Tensor:
    """(B, 7, side, side) uint8 to (B, side, side) maps in [0, 1]."""
    from preprocess.selftaught.network import normalised

    return network(normalised(batch)).sigmoid()


def finish(output: np.ndarray, side: int) -> np.ndarray:
    """The map itself: it is a probability, so one of an image without an object stays dark."""
    return np.clip(output, 0, 1)
