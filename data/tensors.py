"""Files of tensors: written whole or not at all; third-party ones are read without running their
code, and what does not fit a network is said in one line."""

from __future__ import annotations

import errno
import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from data.cli import UsageError
from data.io import atomic

# torch is imported where it is needed: programs that use no network start without it
if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

SHOWN = 4  # keys of each kind that an error names
LARGEST = 8 << 30  # bytes of a file of weights
WRAPPERS = ("state_dict", "model", "network", "net", "teacher")  # checkpoints keep the state there
PREFIXES = ("module.", "backbone.")  # of DistributedDataParallel, of DINO's full checkpoints


def write_tensors(path: Path, state: dict) -> None:
    """torch.save that leaves the old file or the new one, never half, and nothing on a full
    disk."""
    import torch

    with atomic(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch hides that a disk is full behind an error of its own
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_tensors(path: Path, what: str = "file of weights", advice: str = "is it whole?") -> object:
    """What a file of tensors (torch.save's or safetensors', whatever its name) holds, on the CPU.

    Args:
        what, advice: words of the error.

    Raises:
        UsageError: one line: no such file, too large, cut short, or one that cannot be loaded
            without running its code.
        OSError: it cannot be read.
    """
    import torch

    if not path.is_file():
        raise UsageError(f"{path}: no such {what}")
    size = path.stat().st_size
    if size > LARGEST:
        raise UsageError(f"{path}: {size / 1e9:.0f} GB; no {what} for this is that large")
    try:
        if _is_safetensors(path, size):
            from safetensors.torch import load_file

            return load_file(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:  # torch.save never compresses
                if any(entry.file_size > size for entry in archive.infolist()):
                    raise ValueError("compressed")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's protocol
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle, torch and safetensors each raise kinds of their own
        # torch seeks to before the start of a file that is cut short, which is EINVAL
        unreadable = isinstance(error, OSError) and error.errno != errno.EINVAL
        if unreadable or isinstance(error, MemoryError):
            raise
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise UsageError(
                f"{path}: holds a Python object ({code[1]}), whose code is not run here; load it "
                "where it was made and save its state_dict() alone"
            ) from error
        kind = type(error).__name__
        raise UsageError(f"{path}: not a {what} that can be loaded ({kind}); {advice}") from error


def _is_safetensors(path: Path, size: int) -> bool:
    """By its first bytes: the length of a header in JSON, and its brace. A file of that name is
    taken at its word, so that its error is safetensors'."""
    with open(path, "rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    return path.suffix == ".safetensors" or (start[8:] == b"{" and length <= size - 8)


def is_plain(value: object) -> bool:
    """Whether a value is a dense tensor of numbers: not sparse, quantised, complex, or empty of
    data."""
    import torch

    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not (value.is_quantized or value.is_complex() or value.is_meta)
    )


def state_of(content: object, path: str | os.PathLike) -> State:
    """The one state of a checkpoint, without wrappers and prefixes. UsageError where there is
    none."""
    import torch

    while isinstance(content, dict):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    items = content.items() if isinstance(content, dict) else ()
    state = {k: v for k, v in items if isinstance(k, str) and isinstance(v, torch.Tensor)}
    if not state:
        raise UsageError(f"{path}: holds no state_dict, no {{name: tensor}} of a network's weights")
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def fitting(
    state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], what: str
) -> State:
    """`state` with every key of `wanted`: a file of before torch 0.4 has no counts of batches.

    Args:
        wanted: the network's own state, of which keys and shapes count.
        what: begins the error.

    Raises:
        UsageError: `what`, and what is missing, unexpected, of another shape, not finite, or not a
            dense tensor of numbers.
    """
    import torch

    counts = [key for key in wanted if key.endswith("num_batches_tracked")]
    state = {**{key: torch.zeros((), dtype=torch.long) for key in counts}, **state}
    common = [key for key in wanted if key in state]
    same = [key for key in common if state[key].shape == wanted[key].shape]
    odd = [key for key in same if not is_plain(state[key])]
    kinds = {
        "missing": [key for key in wanted if key not in state],
        "unexpected": [key for key in state if key not in wanted],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}"
            for key in common
            if key not in same
        ],
        "sparse, quantised or complex": odd,
        "not finite": [k for k in same if k not in odd and not state[k].isfinite().all()],
    }
    wrong = [
        f"{len(keys)} {kind}: {', '.join(keys[:SHOWN])}{', ...' if len(keys) > SHOWN else ''}"
        for kind, keys in kinds.items()
        if keys
    ]
    if wrong:
        raise UsageError(f"{what}; {'; '.join(wrong)}")
    return state
