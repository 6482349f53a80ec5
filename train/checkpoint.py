"""A run folder's state: checkpoints written atomically, the configuration they belong to, and the exported backbone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import nn

from data.cli import UsageError
from data.files import replace, write_text

CHECKPOINT, BACKBONE, CONFIG = "checkpoint.pt", "backbone.pt", "config.json"


def save(path: Path, state: dict) -> None:
    """torch.save that leaves the old file or the new one, never half."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    replace(temporary, path)


def load(path: Path) -> dict:
    """A file of tensors and plain values; never runs code from it. UsageError where it is damaged or foreign."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except Exception as error:  # zip, pickle and torch each raise kinds of their own on damaged files
        raise UsageError(f"{path}: not a checkpoint that can be loaded ({type(error).__name__}); delete it to begin "
                         "anew") from error


def prepare_run(folder: Path, identity: dict, config: dict) -> None:
    """Make the run folder, or check that the run in it is this one. UsageError, with what differs, where it is not."""
    file = folder / CONFIG
    if file.exists():
        found = json.loads(file.read_text())["identity"]
        keys = [*found, *(k for k in identity if k not in found)]
        different = [f"{k}: {found.get(k)} -> {identity.get(k)}" for k in keys if found.get(k) != identity.get(k)]
        if different:
            raise UsageError(f"{folder}: holds a run of another configuration ({'; '.join(different)}); choose another "
                             "--out, or delete it")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: is not empty and holds no run; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps({"identity": identity, "config": config}, indent=2) + "\n")


def export_backbone(encoder: nn.Module, path: Path) -> None:
    """Write the encoder without its head, in torchvision's keys."""
    save(path, {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items() if not k.startswith("fc.")})


def load_run(folder: str | os.PathLike) -> tuple[dict, dict]:
    """(configuration, backbone's state dict) of a finished run. UsageError where there is none."""
    folder = Path(folder)
    if not (folder / CONFIG).exists():
        raise UsageError(f"{folder}: no run here (no {CONFIG})")
    if not (folder / BACKBONE).exists():
        raise UsageError(f"{folder}: the run is unfinished (no {BACKBONE}); run its `python -m train` again to "
                         "continue it")
    return json.loads((folder / CONFIG).read_text())["config"], load(folder / BACKBONE)
