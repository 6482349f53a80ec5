"""A run folder's state: checkpoints written atomically, the configuration they belong to, and the
exported backbone."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from data.cli import UsageError
from data.io import entries, lock, remove_temporary, write_text
from data.tensors import load_tensors
from data.tensors import write_tensors as save

SHOWN = 4  # entries of a list that an error names
CHECKPOINTS, BACKBONE, HEAD = "checkpoints", "backbone.pt", "head.pt"
CONFIG, DIVERGED = "config.json", "diverged.json"


def load(path: Path) -> dict:
    """A file of tensors and plain values; never runs code from it. UsageError where it is damaged
    or foreign."""
    return load_tensors(path, "checkpoint", "delete it to begin anew")


def save_step(folder: Path, state: dict, keep: int) -> None:
    """Write the checkpoint of `state["step"]`; then only it and the `keep` - 1 before it stay."""
    path = folder / CHECKPOINTS / f"step-{state['step']:09d}.pt"
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


def prepare_run(
    folder: Path, identity: dict, config: dict, defaults: dict, replays: bool = False
) -> None:
    """Make the run folder, or check that the run in it is this one.

    After a loss that was not finite (`write_diverged`) the run may go on with a lower learning
    rate, which its configuration then names.

    Args:
        defaults: what settings that the run's version did not have are taken to have been.
        replays: nothing is trained, so nothing is written, and the rate may be any.

    Raises:
        UsageError: with what differs, where the folder holds another run.
    """
    file = folder / CONFIG
    if not file.exists():
        if replays:
            raise UsageError(f"{folder}: no run here (no {CONFIG})")
        if entries(folder):
            raise UsageError(f"{folder}: is not empty and holds no run; choose another --out")
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps({"identity": identity, "config": config}, indent=2) + "\n")
        return
    try:
        content = json.loads(file.read_text())
        before = defaults | content["identity"]
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            f"{file}: damaged or foreign; choose another --out, or delete {folder}"
        ) from None
    if replays:
        identity = identity | {"lr": before["lr"]}
    changed = {key for key in identity if before.get(key) != identity[key]}
    if changed == {"lr"} and identity["lr"] < before["lr"] and (folder / DIVERGED).exists():
        lowered = [*content.get("lowered", []), {"from": before["lr"], "to": identity["lr"]}]
        content = {"identity": before | identity, "config": config, "lowered": lowered}
        write_text(file, json.dumps(content, indent=2) + "\n")
        (folder / DIVERGED).unlink()
    elif changed:
        raise UsageError(
            f"{folder}: holds a run of another configuration ({differences(before, identity)}); "
            "choose another --out, or delete it"
        )


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Within, no other process trains in this run folder; what dead ones left half-written is
    removed.

    Raises:
        UsageError: another one does.
    """
    checkpoints = folder / CHECKPOINTS
    checkpoints.mkdir(exist_ok=True)
    busy = f"{folder}: another training is under way in this folder; wait for it, or choose --out"
    with lock(checkpoints / ".lock", busy):
        for place in (folder, checkpoints):
            remove_temporary(place)
        yield


def finite(state: dict[str, torch.Tensor]) -> bool:
    """Whether every number of a state is finite."""
    flags = [value.isfinite().all() for value in state.values() if value.is_floating_point()]
    return bool(torch.stack(flags).all())


def write_diverged(folder: Path, what: dict) -> str:
    """Note in DIVERGED that a run's loss was not finite; what to tell its user.

    Args:
        what: `step` and `lr`, and what else is to be kept of it.
    """
    write_text(folder / DIVERGED, json.dumps(what) + "\n")
    files = steps(folder)
    kept = f"{files[-1]} is kept" if files else "no checkpoint was written before"
    return (
        f"{folder}: the loss or a weight is not finite at step {what['step']}; {kept}. The same "
        f"command goes on from there with a lower rate: add --lr {what['lr'] / 2:g}. To see its "
        f"images: add --replay {folder / DIVERGED}"
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


def export(encoder: nn.Module, folder: Path) -> None:
    """Write the encoder's head, and its backbone, in torchvision's keys: its file says that the run
    is finished."""
    state = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
    head = {k: v for k, v in state.items() if k.startswith("fc.")}
    save(folder / HEAD, head)
    save(folder / BACKBONE, {k: v for k, v in state.items() if k not in head})
    (folder / DIVERGED).unlink(missing_ok=True)


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
