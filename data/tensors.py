"""Files of tensors: written whole or not at all; anybody's read without running their code, and
what does not fit said in one line."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from data.cli import UsageError
from data.io import atomic

if (
    TYPE_CHECKING
):  # torch is imported where it is needed: programs that use no network start without it
    import torch

SHOWN = 4  # keys of each kind that an error names
LARGEST = 8 << 30  # bytes of a file of weights


def write_tensors(path: Path, state: dict) -> None:
    """torch.save that leaves the old file or the new one, never half, and nothing on a full
    disk."""
    import torch

    with atomic(path) as temporary:
        torch.save(state, temporary)


def read_tensors(path: Path) -> tuple[object, str]:
    """What a file of tensors (torch.save's or .safetensors) holds, on the CPU, and its SHA-256 as
    hex digits.

    Raises:
        UsageError: one line: no such file, too large, cut short, or one that cannot be loaded
            without running its code.
    """
    import torch

    if not path.is_file():
        raise UsageError(f"{path}: no such file of weights")
    if path.stat().st_size > LARGEST:
        raise UsageError(
            f"{path}: {path.stat().st_size / 1e9:.0f} GB; no file of weights for this is that large"
        )
    content = path.read_bytes()
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            found = load(content)
        else:
            if zipfile.is_zipfile(io.BytesIO(content)):
                with zipfile.ZipFile(io.BytesIO(content)) as archive:  # torch.save never compresses
                    if any(entry.file_size > len(content) for entry in archive.infolist()):
                        raise ValueError("compressed")
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # what torch thinks of the pickle's protocol is nobody's concern
                found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # zip, pickle, torch and safetensors each raise kinds of their own
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise UsageError(
                f"{path}: holds a Python object ({code[1]}), whose code is not run here; load it where it "
                "was made and save its state_dict() alone"
            ) from error
        raise UsageError(
            f"{path}: not a file of weights that can be loaded ({type(error).__name__}); is it whole?"
        ) from error
    return found, hashlib.sha256(content).hexdigest()


def misfit(state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    """What keeps `state` from being loaded as `wanted`: missing and unexpected keys and other
    shapes, each kind counted and its first SHOWN named; "" where everything fits."""
    missing = [k for k in wanted if k not in state]
    unexpected = [k for k in state if k not in wanted]
    shapes = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(wanted[k].shape)}"
        for k in wanted
        if k in state and state[k].shape != wanted[k].shape
    ]
    return "; ".join(
        f"{len(keys)} {what}: {', '.join(keys[:SHOWN])}{', ...' if len(keys) > SHOWN else ''}"
        for what, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
        )
        if keys
    )
