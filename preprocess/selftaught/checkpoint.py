"""A run's folder: checkpoints, the log, and the configuration that they belong to."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path

from data.cli import UsageError
from data.files import write_text
from data.tensors import read_tensors, write_tensors

CONFIG, LOG, CHECKPOINT, LOCK = "config.json", "log.jsonl", "checkpoint.pt", ".lock"


def save(folder: Path, state: dict, name: str = CHECKPOINT) -> None:
    """data.tensors.write_tensors into the run's folder."""
    write_tensors(folder / name, state)


def resume(folder: Path, state) -> None:
    """Load the run's checkpoint, where there is one, into a loop.State. UsageError where it is damaged or foreign."""
    path = folder / CHECKPOINT
    if not path.exists():
        return
    found, _ = read_tensors(path)
    try:
        state.load(found)
    except Exception as error:  # keys, types and shapes of another program's file fail in many ways
        raise UsageError(f"{path}: no checkpoint of this run ({type(error).__name__}); delete it to begin anew"
                         ) from error


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the run's folder; UsageError where another process trains in it: the two would write over each other."""
    with open(folder / LOCK, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{folder}: another process trains in it; let it end, or choose another OUT") from None
        except OSError:
            pass  # some file systems have no locks
        yield


def log(folder: Path, entry: dict) -> None:
    with open(folder / LOG, "a") as file:
        file.write(json.dumps(entry) + "\n")


def entries(folder: Path) -> list[dict]:
    """The log, one entry a step: where a run went back to a checkpoint, the later one counts."""
    path, found = folder / LOG, {}
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):  # a line cut by a full disk
            entry = json.loads(line)
            found[entry["step"]] = entry
    return [found[step] for step in sorted(found)]


def claim(folder: Path, identity: dict) -> None:
    """Make the run's folder, or check that it holds this run. UsageError, with what differs, where it does not."""
    file = folder / CONFIG
    if file.exists():
        try:
            found = json.loads(file.read_text())
            different = [f"{k}: {found.get(k)} -> {identity.get(k)}" for k in dict.fromkeys([*found, *identity])
                         if found.get(k) != identity.get(k)]
        except (ValueError, AttributeError):
            raise UsageError(f"{file}: damaged or foreign; choose another OUT, or delete {folder}") from None
        if different:
            raise UsageError(f"{folder}: holds another run ({'; '.join(different)}); choose another OUT, or delete it")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: is not empty and holds no run; choose another OUT")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(identity, indent=2) + "\n")
