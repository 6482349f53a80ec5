"""PyTorch modules as what runs an architecture, on a CPU or a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from data.cli import UsageError
from data.io import sha256
from data.tensors import fitting, load_tensors, state_of
from preprocess.networks.base import Architecture, Run

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def forward(
    architecture: Architecture,
    module: nn.Module,
    device: torch.device,
    precision: torch.dtype,
    batch: np.ndarray,
) -> np.ndarray:
    """Prepared images through a module in evaluation mode on a device. MemoryError where it has not
    the memory."""
    autocast = torch.autocast(device.type, precision, enabled=precision != torch.float32)
    try:
        with torch.inference_mode(), _reproducible(device), autocast:
            x = torch.from_numpy(batch).to(device)
            return architecture.run(module, x).float().cpu().numpy()
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise MemoryError(str(error).splitlines()[0]) from error
        raise


@contextmanager
def _reproducible(device: torch.device) -> Iterator[None]:
    """The same sums at every run: in fp32, since TensorFloat-32 moves maps by more than two levels,
    and on a CPU in one thread, whatever the number of cores."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic
    threads = torch.get_num_threads()
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = False, False, True
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = before
        torch.set_num_threads(threads)


def load_module(
    architecture: Architecture, path: Path, device: str, precision: str
) -> tuple[Run, str]:
    """`forward` of the module with its weights, and its file's SHA-256.

    Raises:
        UsageError: a file that cannot be read or does not fit, no such device or precision.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"no precision {precision!r}; there are: {', '.join(PRECISIONS)}")
    content, digest = load_tensors(path), sha256(path)
    names = architecture.ignored
    state = {k: v for k, v in state_of(content, path).items() if not k.startswith(names)}
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
    run = partial(forward, architecture, module, torch.device(device), PRECISIONS[precision])
    return run, digest
