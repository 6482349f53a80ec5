"""Networks in ONNX, by onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.cli import UsageError
from data.io import sha256

if TYPE_CHECKING:
    import onnxruntime

SILENT = 4  # onnxruntime's level of messages: what is wrong is raised as well
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


@dataclass(frozen=True)
class Session:
    """A network with one input and one map an image; see `load`.

    Attributes:
        tensor: prepared images to the input.
        single: whether the file takes one image at a time only.
    """

    session: onnxruntime.InferenceSession
    tensor: Callable[[np.ndarray], np.ndarray]
    path: Path
    single: bool

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """(B, side, side, 3) uint8 to (B, h, w) float32.

        Raises:
            UsageError: the output is no map of one channel.
            MemoryError: the batch is too large.
        """
        x = self.tensor(batch)
        chunks = np.split(x, len(x)) if self.single else [x]
        return np.concatenate([self._maps(chunk) for chunk in chunks])

    def _maps(self, x: np.ndarray) -> np.ndarray:
        name, output = self.session.get_inputs()[0].name, self.session.get_outputs()[0].name
        try:
            maps = self.session.run([output], {name: x})[0]
        except Exception as error:  # onnxruntime has a class for each of its codes
            whole = str(error).lower()
            full = "alloc" in whole or "memory" in whole
            raise (MemoryError if full else RuntimeError)(_short(error)) from error
        if maps.ndim == 4 and maps.shape[1] == 1:
            maps = maps[:, 0]
        if maps.ndim != 3 or len(maps) != len(x) or min(maps.shape[1:]) < 2:
            sizes = ", ".join(map(str, maps.shape))
            raise UsageError(
                f"{self.path}: no saliency network: its first output is ({sizes}), not (n, 1, h, w)"
            )
        return maps.astype(np.float32)


def load(network: Any, path: Path, device: str, precision: str) -> tuple[Session, str]:
    """A session for the file, and its SHA-256.

    Args:
        network: has `side`, and `tensor`: prepared images to the float32 (B, 3, side, side) input.
        device: "cpu" or "cuda", or a card ("cuda:1").

    Raises:
        UsageError: no onnxruntime or no such device; a file that cannot be loaded, or is no
            saliency network for images of that side.
        MemoryError: too little for one image.
    """
    if precision != "fp32":
        raise UsageError(f"--precision {precision}: onnx computes in fp32")
    side = network.side
    session = _session(path, device)
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise UsageError(f"{path}: a saliency network has one input (n, 3, side, side)")
    if inputs[0].type != "tensor(float)":
        raise UsageError(f"{path}: takes {inputs[0].type}; export it with a float32 input")
    count, *sizes = (size if isinstance(size, int) else None for size in inputs[0].shape)
    if any(size not in (None, wanted) for size, wanted in zip(sizes, (3, side, side), strict=True)):
        shape = " x ".join(map(str, inputs[0].shape))
        raise UsageError(f"{path}: takes {shape}, and not n x 3 x {side} x {side}; see --net-side")
    if count not in (None, 1):
        raise UsageError(f"{path}: takes {count} images at a time; export it with 1 or any number")
    runner = Session(session, network.tensor, path, count == 1)
    try:
        runner(np.zeros((1, side, side, 3), np.uint8))  # only a run tells the output's shape
    except RuntimeError as error:
        raise UsageError(f"{path}: fails on an image of {side} x {side} px ({error})") from error
    return runner, sha256(path)


def _session(path: Path, device: str) -> onnxruntime.InferenceSession:
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            "--estimator onnx needs onnxruntime: pip install onnxruntime (for --device cuda: "
            "onnxruntime-gpu in its place)"
        ) from error
    kind, _, card = device.partition(":")
    provider = PROVIDERS[kind]
    if provider not in onnxruntime.get_available_providers():
        raise UsageError(
            f"--device {device}: this onnxruntime has no CUDA; pip uninstall onnxruntime, then pip "
            "install onnxruntime-gpu"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = 1  # a worker a core, and the same sums on any number of cores
    # fp32 that is fp32: TensorFloat-32 moves maps by more than two levels
    chosen = {"device_id": int(card or 0), "use_tf32": 0} if kind == "cuda" else {}
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[(provider, chosen)])
    except Exception as error:  # onnxruntime has a class for each of its codes
        raise UsageError(f"{path}: no ONNX network that can be loaded ({_short(error)})") from error
    if provider not in session.get_providers():
        raise UsageError(f"--device {device}: onnxruntime cannot use it")
    return session


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
