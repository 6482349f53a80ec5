"""Run folders: results, settings, log and pictures. What cannot be read becomes a note."""

from __future__ import annotations

import glob
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data.cli import UsageError
from evaluate.masks.metrics import TITLES

LIMIT = 64 << 20  # bytes of a file that are read at most
SETTINGS = "config.json"  # of a run: holds no results
DETAILS = ("per_class", "maps", "neighbours")  # of a result, beside its main numbers
HUGE = 1e300  # numbers beyond it cannot be drawn


@dataclass
class Result:
    """One evaluation of one network.

    Attributes:
        run: the run's name.
        name: the run's, with ", untrained" where its weights were random, and with the file's where
            other results of this evaluation have the same.
        values: numbers, nested: {measure: number} or {part: {measure: number}}, and deeper details.
        deviations: over seeds, in the same shape, where there are any.
        protocol: parameters, and the data.
        references: {"model", "source" and numbers} of publications, and of chance.
    """

    evaluation: str
    run: str
    name: str
    file: Path
    values: dict
    deviations: dict
    protocol: dict
    references: list[dict]


@dataclass
class Run:
    """A run folder, or a JSON file by itself.

    Attributes:
        name: its folder's name, with as many parents as distinguish it from the others.
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


def collect(paths: Sequence[str | os.PathLike]) -> tuple[list[Run], list[str]]:
    """Read run folders and JSON files, once each, in the order given.

    Returns:
        the runs, and a note for everything that had to be left out.

    Raises:
        UsageError: a path that does not exist.
    """
    files = list(dict.fromkeys(map(Path, paths)))
    for path in files:
        if not path.exists():
            raise UsageError(f"{path}: no such run folder or JSON file")
    runs = [Run(name, path) for name, path in zip(short_names(files), files, strict=True)]
    notes: list[str] = []
    for run in runs:
        _read(run, {os.path.realpath(other.path): other.name for other in runs}, notes)
    same = defaultdict(list)
    for result in (result for run in runs for result in run.results):
        same[result.evaluation, result.name].append(result)
    for results in same.values():
        files = short_names([result.file for result in results])
        for result, file in zip(results, files, strict=True):
            result.name += f" ({file})" * (len(results) > 1)
    return runs, notes


def short_names(paths: list[Path]) -> list[str]:
    """The shortest ends of paths that differ: runs/a/x, runs/b/x, runs/b/y -> a/x, b/x, y."""
    parts = [
        (path.with_suffix("") if path.suffix == ".json" else path).resolve().parts for path in paths
    ]
    short = []
    for own in parts:
        count = 1
        while count < len(own) and sum(other[-count:] == own[-count:] for other in parts) > 1:
            count += 1
        short.append("/".join(own[-count:]))
    return short


def read_file(file: Path) -> bytes:
    """The content of an ordinary file in its folder, not of a link to elsewhere or of a pipe.

    Raises:
        ValueError: it is something else, or larger than LIMIT.
    """
    if not file.is_file() or not file.resolve().is_relative_to(file.parent.resolve()):
        raise ValueError("not an ordinary file in the run's folder")
    if file.stat().st_size > LIMIT:
        raise ValueError(f"larger than {LIMIT >> 20} MB")
    return file.read_bytes()


def number(value: object) -> float | None:
    """A JSON value as a finite float, or None where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < HUGE else None


def _read(run: Run, names: dict[str, str], notes: list[str]) -> None:
    """Read everything of a run; `names` are those of all runs by their real paths."""
    log = run.path / "log.jsonl"
    alone = run.path.is_file()
    for file in [run.path] if alone else [*sorted(run.path.glob("[!.]*.json")), log]:
        try:
            if file == log:
                run.log = _points(read_file(log)) if log.exists() else {}
            elif file.name == SETTINGS:
                run.config = _inner(json.loads(read_file(file)), "config")
            else:
                run.results += _results(json.loads(read_file(file)), run.name, file, names)
        except (ValueError, OSError, RecursionError) as error:
            notes.append(f"{file}: {error}")
    folder, start = (run.path.parent, glob.escape(run.path.stem)) if alone else (run.path, "[!.]")
    run.pictures = sorted(folder.glob(f"{start}*.png"))
    if not (run.results or run.log or run.config):
        notes.append(f"{run.path}: nothing of a run or of an evaluation in it")


def _inner(content: object, key: str) -> dict:
    """The object below a key of a JSON; {} where there is none."""
    inner = content.get(key) if isinstance(content, dict) else None
    return inner if isinstance(inner, dict) else {}


def _results(content: object, run: str, file: Path, names: dict[str, str]) -> Iterator[Result]:
    """The result in a JSON; one a run where it holds several. ValueError where there is none."""
    evaluation = content.get("evaluation") if isinstance(content, dict) else None
    estimators = _inner(content, "estimators")
    evaluation = "saliency" if estimators else evaluation
    if not isinstance(evaluation, str):
        raise ValueError("no result of an evaluation (it has no `evaluation`)")
    published = content.get("published")
    rows = published if isinstance(published, list) else []
    published = [row for row in rows if isinstance(row, dict)]
    data = _inner(content, "arguments").get("data") or content.get("data")
    about = {"data": data} if isinstance(data, str) else {}
    for path, single in _inner(content, "runs").items() or [("", content)]:
        name = names.get(os.path.realpath(path), Path(path).name) if path else run
        values = {key: _inner(single, key) for key in DETAILS} | _inner(single, "accuracy")
        for estimator in estimators:
            scores = _inner(estimators, estimator)
            values[estimator] = {key: scores[key] for key in TITLES if key in scores}
        chance = _inner(single, "chance") or _inner(content, "chance")
        yield Result(
            evaluation,
            name,
            name + ", untrained" * (content.get("untrained") is True),
            file,
            values,
            _inner(single, "deviation"),
            about | (_inner(single, "protocol") or _inner(content, "protocol")),
            published + ([{"model": "chance", **chance}] if chance else []),
        )


def _points(log: bytes) -> dict[str, np.ndarray]:
    """The numbers of a log.jsonl; lines that are none of it, such as a last half one, are left
    out."""
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in log.decode(errors="replace").splitlines():
        try:
            values = json.loads(line)
            numbers = {name: number(value) for name, value in values.items()}
        except (ValueError, AttributeError, RecursionError):
            continue
        epoch = numbers.pop("epoch", None)
        for name, value in numbers.items():
            if epoch is not None and value is not None:
                points[name].append((epoch, value))
    return {name: np.array(pairs) for name, pairs in points.items()}
