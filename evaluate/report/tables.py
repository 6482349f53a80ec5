"""Results as tables: a row a run, a column a measure, every number with its deviation where there
is one."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

from evaluate.report.collect import Result, Run

# settings in which runs of one experiment may differ
FREE = {
    "seed",
    "out",
    "workers",
    "threads",
    "device",
    "keep",
    "log_every",
    "checkpoint_every",
    "compile",
}
ABOUT = {
    "evaluation",
    "run",
    "data",
    "untrained",
    "protocol",
    "deviation",
    "per_seed",
    "published",
    "paths",
    "seeds",
    "count",
    "images",
    "truth",
    "refine",
    "half",
    "version",
    "parameters",
    "curves",
}
DETAILS = ("per_class", "maps", "neighbours")  # of a result, beside its main numbers
FOUND = {"chosen_lr"}  # in a protocol, but a result
LESS = {"mae", "ms"}  # measures of which less is better
NEITHER = {
    "gap",
    "bg_gap",
    "lr",
    "only_bg",
    "only_bg_b",
    "only_bg_t",
    "no_fg",
}  # neither more nor less is better

Cell = tuple[float, float | None]  # a number and its deviation


@dataclass
class Row:
    """Numbers of one run (kind "run"), of runs that differ in the seed ("mean"), or of a
    publication ("published").

    Attributes:
        part: what of the run: a probe, a share of the labels, an estimator; often empty.
    """

    name: str
    part: str
    cells: dict[str, Cell]
    kind: str = "run"


@dataclass
class Table:
    """Rows in order; `columns` in the order in which they were met."""

    rows: list[Row] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for row in self.rows for column in row.cells))

    def best(self) -> set[tuple[int, str]]:
        """(row, column) of the best run among those with the same part, where there are several."""
        found = set()
        for column in self.columns:
            if column in NEITHER:
                continue
            parts: dict[str, list[tuple[float, int]]] = {}
            for i, row in enumerate(self.rows):
                if row.kind == "run" and column in row.cells:
                    parts.setdefault(row.part, []).append((row.cells[column][0], i))
            for values in parts.values():
                top = (min if column in LESS else max)(value for value, _ in values)
                if len(values) > 1 and any(value != top for value, _ in values):
                    found |= {(i, column) for value, i in values if value == top}
        return found


@dataclass
class Section:
    """An evaluation: its main table; tables of detail by name (per class, by rate), rows a key,
    columns a run; and the protocols by run."""

    evaluation: str
    main: Table
    details: dict[str, Table]
    protocols: dict[str, dict]


def number(value: object) -> float | None:
    """A JSON value as a finite float, or None where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def sections(runs: list[Run]) -> list[Section]:
    """A section for every evaluation that some run has, in the order of `python -m evaluate`'s
    list, then by name."""
    from evaluate.__main__ import EVALUATIONS

    results: dict[str, list[Result]] = {}
    for run in runs:
        for result in run.results:
            results.setdefault(result.evaluation, []).append(result)
    order = list(EVALUATIONS)

    def place(name: str) -> tuple:
        stem = name.split("-")[0]
        return (order.index(stem) if stem in order else len(order), name)

    return [_section(name, results[name], runs) for name in sorted(results, key=place)]


def _section(evaluation: str, results: list[Result], runs: list[Run]) -> Section:
    main, details, protocols = Table(), {}, {}
    chance = [
        Row("chance", "", _cells(first.content["chance"], {})[0], "published")
        for first in results[:1]
        if isinstance(first.content.get("chance"), dict)
    ]
    for result in (one for file in results for one in _single(file, runs)):
        content = result.content
        protocol = content.get("protocol")
        if isinstance(protocol, dict):
            protocols[result.name] = protocol
        values, deviations = _values(content)
        for part, flat, nested in _parts(values, deviations):
            if flat:
                main.rows.append(Row(result.name, part, flat))
            for name, cells in nested.items():
                _detail(details.setdefault(f"{part} {name}".strip(), Table()), result.name, cells)
    main.rows += _means(main.rows, runs)
    order = list(
        dict.fromkeys(row.part for row in main.rows)
    )  # the same part of all runs stands together
    main.rows = (
        sorted(main.rows, key=lambda row: order.index(row.part)) + _published(results) + chance
    )
    return Section(
        evaluation, main, {name: table for name, table in details.items() if table.rows}, protocols
    )


def _single(result: Result, runs: list[Run]) -> list[Result]:
    """The result by itself, or one a run of those in it, by the report's name where the run is in
    the report."""
    inside = result.content.get("runs")
    if not isinstance(inside, dict):
        return [result]
    known = {str(run.path.resolve()): run.name for run in runs}
    about = {key: result.content.get(key) for key in ("protocol", "published")}
    return [
        Result(
            result.evaluation,
            known.get(str(Path(run).resolve()), Path(run).name),
            {**about, **content},
        )
        for run, content in inside.items()
        if isinstance(content, dict) and "\0" not in run
    ]


def _values(content: dict) -> tuple[dict, dict]:
    """The numbers of a result, and their deviations in the same shape (or {})."""
    if isinstance(content.get("estimators"), dict):
        return content["estimators"], {}
    deviations = content.get("deviation") if isinstance(content.get("deviation"), dict) else {}
    if isinstance(content.get("accuracy"), dict):
        more = {k: v for k, v in content.items() if k in DETAILS and isinstance(v, dict)}
        return {**content["accuracy"], **more}, deviations
    return {k: v for k, v in content.items() if k not in ABOUT}, deviations


def _parts(values: dict, deviations: dict):
    """(part, its numbers by column, its dictionaries of numbers by name) of each part: one, or one
    for each key where everything is a dictionary."""
    inner = {k: v for k, v in values.items() if isinstance(v, dict) and k not in ABOUT | {*DETAILS}}
    if inner and all(isinstance(v, dict) for v in values.values()):
        for key, value in inner.items():
            below = deviations.get(key) if isinstance(deviations.get(key), dict) else {}
            yield key, *_cells(value, below)
        rest = {k: v for k, v in values.items() if k not in inner and k not in ABOUT}
        if rest:
            yield "", {}, _cells(rest, {})[1]
        return
    yield "", *_cells(values, deviations)


def _cells(values: dict, deviations: dict) -> tuple[dict[str, Cell], dict[str, dict[str, Cell]]]:
    flat, nested = {}, {}
    for key, value in values.items():
        found = number(value) if key not in ABOUT else None
        if found is not None:
            flat[key] = (found, number(deviations.get(key)))
        elif isinstance(value, dict) and key not in ABOUT:
            below = deviations.get(key) if isinstance(deviations.get(key), dict) else {}
            nested[key] = dict(_leaves(value, below))
    return flat, nested


def _leaves(values: dict, deviations: dict, prefix: str = "", depth: int = 4):
    for key, value in values.items():
        found = number(value)
        below = deviations.get(key)
        if found is not None:
            yield f"{prefix}{key}", (found, number(below))
        elif isinstance(value, dict) and depth:
            yield from _leaves(
                value, below if isinstance(below, dict) else {}, f"{prefix}{key} / ", depth - 1
            )


def _detail(table: Table, run: str, cells: dict[str, Cell]) -> None:
    rows = {row.name: row for row in table.rows}
    for key, cell in cells.items():
        if key not in rows:
            rows[key] = Row(key, "", {})
            table.rows.append(rows[key])
        rows[key].cells[run] = cell


def experiments(runs: list[Run]) -> list[list[str]]:
    """Names of runs whose settings are the same but for the seed (and the place, the device and the
    like)."""
    groups: dict[str, dict[str, str]] = {}
    for run in runs:
        if "seed" in run.config:
            key = json.dumps({k: v for k, v in run.config.items() if k not in FREE}, sort_keys=True)
            groups.setdefault(key, {}).setdefault(json.dumps(run.config["seed"]), run.name)
    return [list(seeds.values()) for seeds in groups.values() if len(seeds) > 1]


def _means(rows: list[Row], runs: list[Run]) -> list[Row]:
    """For every experiment with several seeds: the mean and the sample deviation of its runs'
    numbers."""
    found = []
    for group in experiments(runs):
        for suffix in ("", ", untrained"):
            members = {name + suffix for name in group}
            for part in dict.fromkeys(row.part for row in rows):
                own = [row for row in rows if row.name in members and row.part == part]
                if len(own) < 2:
                    continue
                columns = [c for c in own[0].cells if all(c in row.cells for row in own)]
                cells = {
                    c: (fmean(v := [row.cells[c][0] for row in own]), stdev(v)) for c in columns
                }
                found.append(
                    Row(f"mean: {', '.join(row.name for row in own)}", part, cells, "mean")
                )
    return found


def _published(results: list[Result]) -> list[Row]:
    """Other models' rows that a result carries, each once."""
    found = {}
    for result in results:
        rows = result.content.get("published")
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, dict) and isinstance(row.get("model"), str):
                cells = {k: (v, None) for k, x in row.items() if (v := number(x)) is not None}
                found.setdefault(
                    row["model"], Row(row["model"], str(row.get("source", "")), cells, "published")
                )
    return list(found.values())


def differences(protocols: dict[str, dict]) -> list[str]:
    """Parameters whose values are not the same in all protocols: such runs are not to be
    compared."""
    keys = list(
        dict.fromkeys(
            key for protocol in protocols.values() for key in protocol if key not in FOUND
        )
    )
    return [
        key
        for key in keys
        if len({json.dumps(protocol.get(key), sort_keys=True) for protocol in protocols.values()})
        > 1
    ]
