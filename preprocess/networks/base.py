"""The base class of networks that estimate saliency."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from preprocess.networks.weights import Source

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Architecture:
    """A network without its weights: its fields are its parameters, JSON-able, with defaults.

    preprocess.networks.inference makes an Estimator of it with a file of weights. A subclass
    imports torch only inside `build` and `run`, because worker processes that decode for a GPU
    call `prepare` alone.

    Attributes:
        name: the key in preprocess.estimators.NETWORKS.
        version: raised whenever the maps change.
        source: the files of weights to look for, and where they come from.
        backend: "torch", or "onnx" (then `tensor` takes the place of `build` and `run`).
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    source: ClassVar[Source]
    backend: ClassVar[str] = "torch"

    @property
    def parameters(self) -> dict:
        """What a cache's identity stores of the fields, as JSON has it."""
        fields = asdict(self).items()
        return {name: list(v) if isinstance(v, tuple) else v for name, v in fields}

    def for_file(self, path: Path) -> Architecture:
        """With the parameters that a file of weights decides."""
        return self

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """What the network sees of an (H, W, 3) uint8 RGB image; by numpy and OpenCV only.

        Returns:
            An array of one shape and dtype for all images, uint8 where that is possible: it goes
            from process to process.
        """
        raise NotImplementedError

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A file's state with the keys of the network."""
        return state

    def build(self, state: dict[str, Tensor] | None = None) -> nn.Module:
        """The network, whose state_dict() the file must match key for key and shape for shape.

        Args:
            state: the file's, for networks whose size is told by its shapes; the caller loads it.
        """
        raise NotImplementedError

    def run(self, network: nn.Module, batch: Tensor) -> Tensor:
        """(B, ...) prepared images on the device to (B, ...) floats, each image's by itself.

        Runs in inference mode, and under autocast where the precision is bf16.
        """
        raise NotImplementedError

    def finish(self, output: np.ndarray) -> np.ndarray:
        """One image's float32 output to its map, float32 (h, w) in [0, 1]; by numpy only."""
        raise NotImplementedError
