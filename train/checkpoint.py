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

CHECKPOINTS, BACKBONE, CONFIG = "checkpoints", "backbone.pt", "config.json"


def load(path: Path) -> dict:
    """A file of tensors and plain values; never runs code from it. UsageError where it is damaged
    or foreign."""
    return load_tensors(path, "checkpoint", "delete it to begin anew")


def step_file(folder: Path, step: int) -> Path:
    return folder / CHECKPOINTS / f"step-{step:09d}.pt"


def save_step(folder: Path, state: dict, keep: int) -> None:
    """Write the checkpoint of `state["step"]`; then only it and the `keep` - 1 before it stay."""
    path = step_file(folder, state["step"])
    path.parent.mkdir(exist_ok=True)
    save(path, state)
    found = steps(folder)
    here = found.index(path) + 1  # later ones are damaged, or the run would have gone on from them
    for other in found[: max(0, here - keep)] + found[here:]:
        other.unlink(missing_ok=True)


def steps(folder: Path) -> list[Path]:
    """The run's checkpoints, oldest first."""
    return sorted((folder / CHECKPOINTS).glob("step-*.pt"))


def newest(folder: Path) -> dict | None:
    """The newest checkpoint that can be loaded, None where the run has none; damaged ones are
    passed over, aloud.

    Raises:
        UsageError: there are checkpoints, and none can be loaded.
    """
    found = steps(folder)
    for path in reversed(found):
        try:
            return load(path)
        except UsageError as error:
            print(f"warning: {error}; taking the one before it", file=sys.stderr)
    if found:
        raise UsageError(
            f"{folder / CHECKPOINTS}: none of its {len(found)} checkpoints can be loaded; delete that "
            "folder to begin anew"
        )
    return None


def prepare_run(folder: Path, identity: dict, config: dict, defaults: dict | None = None) -> None:
    """Make the run folder, or check that the run in it is this one. UsageError, with what differs,
    where it is not.

    Args:
        defaults: what settings that the run's version did not have are taken to have been.
    """
    file = folder / CONFIG
    if file.exists():
        try:
            found = (defaults or {}) | json.loads(file.read_text())["identity"]
        except (ValueError, KeyError, TypeError):
            raise UsageError(
                f"{file}: damaged or foreign; choose another --out, or delete {folder}"
            ) from None
        keys = [*found, *(k for k in identity if k not in found)]
        different = [
            f"{k}: {found.get(k)} -> {identity.get(k)}"
            for k in keys
            if found.get(k) != identity.get(k)
        ]
        if different:
            raise UsageError(
                f"{folder}: holds a run of another configuration ({'; '.join(different)}); choose another "
                "--out, or delete it"
            )
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: is not empty and holds no run; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps({"identity": identity, "config": config}, indent=2) + "\n")


def differences(found: dict, wanted: dict) -> str:
    """What of `wanted` is otherwise in `found`, as "lr: 1.0 -> 2.0; ..."; empty where nothing is.
    Of a long list its length is told."""

    def short(value) -> str:
        return f"{len(value)} of them" if isinstance(value, list) and len(value) > 4 else str(value)

    return "; ".join(
        f"{key}: {short(found.get(key))} -> {short(value)}"
        for key, value in wanted.items()
        if found.get(key) != value
    )


def export_backbone(encoder: nn.Module, path: Path) -> None:
    """Write the encoder without its head, in torchvision's keys."""
    save(
        path,
        {
            k: v.detach().cpu().contiguous()
            for k, v in encoder.state_dict().items()
            if not k.startswith("fc.")
        },
    )


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
