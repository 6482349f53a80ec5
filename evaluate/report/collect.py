"""Everything that lies in run folders: results, configuration, log, pictures. What cannot be read
becomes a note."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.cli import UsageError
from evaluate.report.results import read_log

LIMIT = 64 << 20  # bytes of a JSON or log that are read at most
SETTINGS = ("config.json",)  # JSONs of a run that hold no results


@dataclass(frozen=True)
class Result:
    """One evaluation's JSON: its name, the run's name (with ", untrained" where it is), and the
    content."""

    evaluation: str
    name: str
    content: dict


@dataclass
class Run:
    """A run folder, or a JSON file by itself.

    Attributes:
        name: its folder's name, with as many parents as tell it from the others.
        config: the settings of `python -m train`; empty where there are none.
        log: quantity -> (n, 2) float64, epoch and value.
        pictures: PNG files, by name.
    """

    name: str
    path: Path
    results: list[Result] = field(default_factory=list)
    config: dict = field(default_factory=dict)
    log: dict[str, np.ndarray] = field(default_factory=dict)
    pictures: list[Path] = field(default_factory=list)


def collect(paths: tuple[str, ...] | list[str]) -> tuple[list[Run], list[str]]:
    """Runs in the order given, once each, and a note for everything that had to be left out.

    Raises:
        UsageError: a path that does not exist.
    """
    found = list(dict.fromkeys(Path(path) for path in paths))
    for path in found:
        if not path.exists():
            raise UsageError(f"{path}: no such run folder or JSON file")
    notes: list[str] = []
    return [_read(path, name, notes) for path, name in zip(found, names(found), strict=True)], notes


def names(paths: list[Path]) -> list[str]:
    """The shortest ends of paths that tell them apart: runs/a/x, runs/b/x, runs/b/y -> a/x, b/x,
    y."""
    parts = [
        path.resolve().with_suffix("").parts if path.suffix == ".json" else path.resolve().parts
        for path in paths
    ]
    short = []
    for own in parts:
        count = 1
        while count < len(own) and sum(other[-count:] == own[-count:] for other in parts) > 1:
            count += 1
        short.append("/".join(own[-count:]))
    return short


def _read(path: Path, name: str, notes: list[str]) -> Run:
    run = Run(name, path)
    inside = [path] if path.is_file() else sorted(path.glob("*.json"))
    for file in inside:
        content = _json(file, path, notes)
        if content is None:
            continue
        if file.name in SETTINGS:
            settings = content.get("config")
            run.config = settings if isinstance(settings, dict) else {}
            continue
        evaluation = content.get("evaluation", "saliency" if "estimators" in content else None)
        if not isinstance(evaluation, str):
            notes.append(f"{file}: no result of an evaluation (it has no `evaluation`)")
            continue
        untrained = ", untrained" if content.get("untrained") is True else ""
        run.results.append(Result(evaluation, name + untrained, content))
    folder = path.parent if path.is_file() else path
    pattern = f"{path.stem}*.png" if path.is_file() else "*.png"
    run.pictures = [file for file in sorted(folder.glob(pattern)) if _inside(file, folder)]
    log = path / "log.jsonl"
    if path.is_dir() and log.exists():
        if not _inside(log, path) or log.stat().st_size > LIMIT:
            notes.append(
                f"{log}: not an ordinary file of at most {LIMIT >> 20} MB in the run's folder"
            )
        else:
            run.log = read_log(path)
    if not (run.results or run.log or run.config):
        notes.append(f"{path}: nothing of a run or of an evaluation in it")
    return run


def _inside(file: Path, folder: Path) -> bool:
    """Whether it is an ordinary file that lies in the folder, not a link to somewhere else (or a
    pipe that blocks)."""
    return file.is_file() and file.resolve().is_relative_to(folder.resolve())


def _json(file: Path, root: Path, notes: list[str]) -> dict | None:
    """A JSON object, or None and a note."""
    try:
        if not _inside(file, root if root.is_dir() else root.parent):
            raise ValueError("not an ordinary file in the run's folder")
        if file.stat().st_size > LIMIT:
            raise ValueError(f"larger than {LIMIT >> 20} MB")
        content = json.loads(file.read_bytes())
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__} instead of an object")
        return content
    except (ValueError, RecursionError, OSError) as error:
        notes.append(
            f"{file}: {'nested too deeply' if isinstance(error, RecursionError) else error}"
        )
        return None
