"""The base class of networks that estimate saliency, and one with its weights as an Estimator."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from preprocess.estimators.base import Estimator
from preprocess.networks.weights import Source, find
from preprocess.vision.pixels import shrink

if TYPE_CHECKING:
    from torch import Tensor, nn

Run = Callable[[np.ndarray], np.ndarray]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
FLAT = 1e-6  # a map with less contrast than this has nothing to stretch


@dataclass(frozen=True)
class Architecture(Estimator):
    """A network without its weights: its fields are its parameters, JSON-able, with defaults.

    Here with U²-Net's and BASNet's preparation, a photograph squashed to a square in, one map out.
    `load` makes an Estimator that computes of it, with a file of weights. A subclass gives `build`
    and imports torch only inside `build` and `run`, because worker processes that decode for a GPU
    call `prepare` alone.

    Args:
        side: of the squashed image, px.

    Attributes:
        source: the files of weights to look for, and where they come from.
        ignored: beginnings of keys in files that the network does without.
        runner: module:function of (architecture, path, device, precision), which gives what runs
            it, (B, ...) prepared images to (B, ...) float32 outputs, and its file's SHA-256.
    """

    source: ClassVar[Source]
    ignored: ClassVar[tuple[str, ...]] = ()
    runner: ClassVar[str] = "preprocess.networks.inference:load_module"
    side: int = 320

    def for_file(self, path: Path) -> Architecture:
        """With the parameters that a file of weights decides."""
        return self

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """What the network sees of an (H, W, 3) uint8 RGB image; by numpy and OpenCV only.

        An array of one shape and dtype for all images, uint8 where that is possible: it goes from
        process to process. Here (side, side, 3) uint8: bilinear, smoothed where it shrinks to under
        a half. The authors keep the resized image in floating point: that differs by half a level.
        """
        return np.ascontiguousarray(shrink(image, self.side, self.side))

    def build(self, state: dict[str, Tensor] | None = None) -> nn.Module:
        """The network, whose state_dict() the file must match key for key and shape for shape.

        Args:
            state: the file's, for networks whose size is told by its shapes; the caller loads it.
        """
        raise NotImplementedError

    def run(self, network: nn.Module, batch: Tensor) -> Tensor:
        """(B, ...) prepared images on the device to (B, ...) floats, each image's by itself.

        Runs in inference mode, and under autocast where the precision is bf16. Each image is
        divided by its maximum, a black one by one, as U²-Net's and BASNet's ToTensorLab do.
        """
        return network(normalise(batch, batch.float().amax((1, 2, 3), keepdim=True).clamp(min=1)))

    def finish(self, output: np.ndarray) -> np.ndarray:
        """One image's float32 output to its map, float32 (h, w) in [0, 1]; by numpy only.

        Stretched to [0, 1] by its own least and largest value; a flat one as it is. The authors'
        function takes both values from the whole batch, which they only ever fill with one image.
        """
        low, high = float(output.min()), float(output.max())
        if high - low < FLAT:
            return np.clip(output, 0, 1)
        return (output - np.float32(low)) / np.float32(high - low)


def normalise(batch: Tensor, largest: Tensor | float = 255) -> Tensor:
    """(B, h, w, 3) uint8, divided by `largest`, to (B, 3, h, w) float32 with ImageNet's mean and
    standard deviation."""
    import torch

    mean, std = (torch.tensor(values, device=batch.device) for values in (MEAN, STD))
    return ((batch.float() / largest - mean) / std).permute(0, 3, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Network(Estimator):
    """An architecture with its weights on a device; made by `load`.

    Attributes:
        forward: (B, ...) prepared images to (B, ...) float32 outputs; MemoryError where the batch
            is too large for the device.
        weights: SHA-256 of its file.
    """

    architecture: Architecture
    forward: Run
    weights: str
    precision: str = "fp32"

    @property
    def name(self) -> str:
        return self.architecture.name

    @property
    def version(self) -> int:
        return self.architecture.version

    @property
    def single(self) -> bool:
        return getattr(self.forward, "single", False)

    @property
    def parameters(self) -> dict:
        """The architecture's, and the precision where it is not the usual one."""
        other = {} if self.precision == "fp32" else {"precision": self.precision}
        return self.architecture.parameters | other

    def working(self, image: np.ndarray) -> np.ndarray:
        output = self.forward(self.architecture.prepare(image)[None])[0]
        return self.architecture.finish(np.ascontiguousarray(output))


def load(architecture: Architecture, weights: str | None, device: str, precision: str) -> Network:
    """A network with its weights (see preprocess.networks.weights.find) on the device.

    Raises:
        UsageError: no weights, a file that cannot be read or does not fit, no such device or
            precision.
    """
    path = find(architecture.name, architecture.source, weights)
    architecture = architecture.for_file(path)
    forward, digest = _runner(architecture, path, path.stat().st_mtime_ns, device, precision)
    return Network(architecture=architecture, forward=forward, weights=digest, precision=precision)


@lru_cache(maxsize=2)
def _runner(
    architecture: Architecture, path: Path, written: int, device: str, precision: str
) -> tuple[Run, str]:
    """Kept, for callers that load it often."""
    module, function = architecture.runner.split(":")
    return getattr(importlib.import_module(module), function)(architecture, path, device, precision)
