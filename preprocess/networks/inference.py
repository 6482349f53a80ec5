"""A network and its weights as an Estimator: batches of images in, maps out, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from data.cli import UsageError
from data.tensors import fitting, read_tensors, state_of
from preprocess.estimators.base import Estimator
from preprocess.networks import onnx
from preprocess.networks.base import Architecture
from preprocess.networks.weights import find
from preprocess.refine import REFINE, thumbnail

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Network(Estimator):
    """An architecture with its weights on a device; made by `load`.

    Attributes:
        run: prepared images, (B, ...), to (B, ...) float32 outputs.
        weights: SHA-256 of its file.
        place: the device, as "cuda:1".
    """

    architecture: Architecture
    run: Callable[[np.ndarray], np.ndarray]
    weights: str
    refine: str = "none"
    place: str = "cpu"
    precision: str = "fp32"

    @property
    def single(self) -> bool:
        """Whether the file takes one image at a time only."""
        return isinstance(self.run, onnx.Session) and self.run.single

    @property
    def name(self) -> str:
        return self.architecture.name

    @property
    def version(self) -> int:
        return self.architecture.version

    @property
    def device(self) -> str:
        return self.place.partition(":")[0]

    @property
    def parameters(self) -> dict:
        """The architecture's, and refinement and precision where they are not the usual ones."""
        parameters = self.architecture.parameters
        if self.refine != "none":
            parameters["refine"] = self.refine
        if self.precision != "fp32":
            parameters["precision"] = self.precision
        return parameters

    def working(self, image: np.ndarray) -> np.ndarray:
        return self.batch([image])[0]

    def batch(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        outputs = self.forward(np.stack([self.prepare(image) for image in images]))
        return [
            self.finish(output, self.thumbnail(image))
            for output, image in zip(outputs, images, strict=True)
        ]

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """What the network sees of an (H, W, 3) uint8 RGB image, see Architecture.prepare."""
        return self.architecture.prepare(image)

    def thumbnail(self, image: np.ndarray) -> np.ndarray | None:
        """What `finish` needs of the image: nothing, unless the map is to be refined."""
        return None if self.refine == "none" else thumbnail(image)

    def forward(self, batch: np.ndarray) -> np.ndarray:
        """(B, ...) prepared images to (B, ...) float32 outputs.

        Raises:
            torch.OutOfMemoryError: the batch is too large for the device.
            MemoryError: the batch is too large for the CPU's memory.
        """
        return self.run(batch)

    def finish(self, output: np.ndarray, thumbnail: np.ndarray | None = None) -> np.ndarray:
        """One image's output to its map, float32 (h, w) in [0, 1]."""
        saliency = self.architecture.finish(np.ascontiguousarray(output))
        return saliency if thumbnail is None else REFINE[self.refine](thumbnail, saliency)


@dataclass(frozen=True)
class Module:
    """A PyTorch module, in evaluation mode, on a device."""

    architecture: Architecture
    module: nn.Module
    place: str
    precision: str

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        autocast = torch.autocast(
            torch.device(self.place).type,
            PRECISIONS[self.precision],
            enabled=self.precision != "fp32",
        )
        try:
            with torch.inference_mode(), _reproducible(), autocast:
                x = torch.from_numpy(batch).to(self.place)
                return self.architecture.run(self.module, x).float().cpu().numpy()
        except RuntimeError as error:
            if "allocate memory" in str(error) and not isinstance(error, torch.OutOfMemoryError):
                raise MemoryError(str(error).splitlines()[0]) from error
            raise


@contextmanager
def _reproducible() -> Iterator[None]:
    """The same sums at every run, in fp32: TensorFloat-32 moves maps by more than two levels."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = False, False, True
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = before


def load(
    architecture: Architecture,
    refine: str = "none",
    weights: str | None = None,
    device: str = "cpu",
    precision: str = "fp32",
) -> Network:
    """A network with its weights (see preprocess.networks.weights.find) on the device.

    Raises:
        UsageError: no weights, a file that cannot be read or does not fit, no such device or
            precision.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"no precision {precision!r}; there are: {', '.join(PRECISIONS)}")
    path = find(architecture.name, architecture.source, weights)
    architecture = architecture.for_file(path)
    stat = path.stat()
    stamp = stat.st_size, stat.st_mtime_ns
    run, digest = _load(architecture, path, stamp, device, precision)
    return Network(
        architecture=architecture,
        run=run,
        weights=digest,
        refine=refine,
        place=device,
        precision=precision,
    )


@lru_cache(maxsize=2)
def _load(
    architecture: Architecture, path: Path, stamp: tuple[int, int], device: str, precision: str
) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """What runs the network, and its file's SHA-256; kept, for callers that load it often."""
    if architecture.backend == "onnx":
        if precision != "fp32":
            raise UsageError(f"--precision {precision}: {architecture.name} computes in fp32")
        return onnx.load(architecture.tensor, architecture.side, path, device)
    content, digest = read_tensors(path)
    state = architecture.convert(state_of(content, path))
    try:
        module = architecture.build(state)
        what = f"no weights of {architecture.name}"
        module.load_state_dict(fitting(state, module.state_dict(), what))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    try:
        module = module.eval().requires_grad_(False).to(device)
    except (RuntimeError, AssertionError) as error:  # torch's, where there is no such device
        raise UsageError(f"--device {device}: {' '.join(str(error).split())[:200]}") from error
    return Module(architecture, module, device, precision), digest
