"""A run folder's state: checkpoints written atomically, the configuration they belong to, and the
exported backbone."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from torch import nn

from data.cli import UsageError
from data.io import write_text
from data.tensors import load_tensors
from data.tensors import write_tensors as save

SHOWN = 4  # entries of a list that an error names
CHECKPOINTS, BACKBONE, CONFIG = "checkpoints", "backbone.pt", "config.json"


def load(path: Path) -> dict:
    """A file of tensors and plain values; never runs code from it. UsageError where it is damaged
    or foreign."""
    return load_tensors(path, "checkpoint", "delete it to begin anew")


def step_file(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is kept."""
    return folder / CHECKPOINTS / f"step-{step:09d}.pt"


def save_step(folder: Path, state: dict, keep: int) -> None:
    """Write the checkpoint of `state["step"]`; then only it and the `keep` - 1 before it stay."""
    path = step_file(folder, state["step"])
    path.parent.mkdir(exist_ok=True)
    save(path, state)
    kept = steps(folder)
    here = kept.index(path) + 1  # later ones are damaged, or the run would have gone on from them
    for other in kept[: max(0, here - keep)] + kept[here:]:
        other.unlink(missing_ok=True)


def steps(folder: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    return sorted((folder / CHECKPOINTS).glob("step-*.pt"))


def newest(folder: Path) -> dict | None:
    """The newest checkpoint that can be loaded, None where the run has none; damaged ones are
    passed over with a warning.

    Raises:
        UsageError: there are checkpoints, and none can be loaded.
    """
    files = steps(folder)
    for path in reversed(files):
        try:
            return load(path)
        except UsageError as error:
            print(f"warning: {error}; taking the one before it", file=sys.stderr)
    if files:
        raise UsageError(
            f"{folder / CHECKPOINTS}: none of its {len(files)} checkpoints can be loaded; delete "
            "that folder to begin anew"
        )
    return None


def prepare_run(folder: Path, identity: dict, config: dict, defaults: dict | None = None) -> None:
    """Make the run folder, or check that the run in it is this one. UsageError, with what differs,
    where it is not.

    Args:
        defaults: what settings that the run's version did not have are taken to have been.
    """
    file = folder / CONFIG
    if not file.exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder}: is not empty and holds no run; choose another --out")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps({"identity": identity, "config": config}, indent=2) + "\n")
        return
    try:
        before = (defaults or {}) | json.loads(file.read_text())["identity"]
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            f"{file}: damaged or foreign; choose another --out, or delete {folder}"
        ) from None
    if different := differences(before, identity):
        raise UsageError(
            f"{folder}: holds a run of another configuration ({different}); choose another --out, "
            "or delete it"
        )


def differences(before: dict, wanted: dict) -> str:
    """What of `wanted` is otherwise in `before`, as "lr: 1.0 -> 2.0; ..."; empty where nothing is.
    Of a list of more than SHOWN only its length is named."""

    def short(value: object) -> str:
        long = isinstance(value, list) and len(value) > SHOWN
        return f"{len(value)} of them" if long else str(value)

    return "; ".join(
        f"{key}: {short(before.get(key))} -> {short(value)}"
        for key, value in wanted.items()
        if before.get(key) != value
    )


def export_backbone(encoder: nn.Module, path: Path) -> None:
    """Write the encoder without its head, in torchvision's keys."""
    state = encoder.state_dict()
    backbone = {k: v for k, v in state.items() if not k.startswith("fc.")}
    save(path, {k: v.detach().cpu().contiguous() for k, v in backbone.items()})


def load_run(folder: str | os.PathLike) -> tuple[dict, dict]:
    """(configuration, backbone's state dict) of a finished run. UsageError where there is none."""
    folder = Path(folder)
    if not (folder / CONFIG).exists():
        raise UsageError(f"{folder}: no run here (no {CONFIG})")
    if not (folder / BACKBONE).exists():
        raise UsageError(
            f"{folder}: the run is unfinished (no {BACKBONE}); run its `python -m train` again to "
            "continue it"
        )
    return json.loads((folder / CONFIG).read_text())["config"], load(folder / BACKBONE)
