"""Results as tables: a row a run, a column a measure, with deviations where there are any."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from statistics import fmean, stdev

from evaluate.report.runs import DETAILS, Result, Run, number

ORDER = ("knn", "linear", "few", "in9", "backgrounds", "detection", "diagnose", "saliency")
# settings in which runs of one experiment may differ
FREE = {
    *("seed", "out", "workers", "threads", "device", "keep"),
    *("log_every", "checkpoint_every", "compile"),
}
TUNED = "chosen_lr"  # in a protocol, but a result
DEPTH = 6  # of nested results

Value = tuple[float, float | None]  # a mean and its deviation over seeds


@dataclass
class Row:
    """Numbers of a run (kind "run"), of runs that differ in the seed ("mean"), or of a reference
    ("published").

    Attributes:
        part: what of the run: a probe, a share of the labels, an estimator; often empty.
        values: by measure.
        result: where a run's numbers are from.
    """

    name: str
    part: str
    values: dict[str, Value] = field(default_factory=dict)
    kind: str = "run"
    result: Result | None = None


@dataclass
class Section:
    """An evaluation.

    Attributes:
        rows: the main table.
        details: further tables by name (per class, by rate): key -> run -> value.
        protocols: by run.
    """

    evaluation: str
    rows: list[Row] = field(default_factory=list)
    details: dict[str, dict[str, dict[str, Value]]] = field(default_factory=dict)
    protocols: dict[str, dict] = field(default_factory=dict)

    def add(self, result: Result) -> None:
        """Add the numbers of one run."""
        if result.protocol:
            self.protocols[result.name] = result.protocol
        in_parts = all(isinstance(value, dict) for value in result.values.values())
        rows: dict[str, Row] = {}
        for path, value in leaves(result.values, result.deviations):
            part, inner = ("", path)
            if in_parts and path[0] not in DETAILS:
                part, *inner = path
            if len(inner) == 1:
                row = rows.setdefault(part, Row(result.name, part, result=result))
                row.values[inner[0]] = value
            else:
                table = self.details.setdefault(f"{part} {inner[0]}".strip(), {})
                table.setdefault(" / ".join(inner[1:]), {})[result.name] = value
        self.rows += rows.values()

    def by_protocol(self) -> dict[str, dict]:
        """Every different protocol, by the names of its runs."""
        runs: dict[str, list[str]] = {}
        for run, protocol in self.protocols.items():
            runs.setdefault(json.dumps(protocol, sort_keys=True), []).append(run)
        return {", ".join(names): json.loads(protocol) for protocol, names in runs.items()}

    def differences(self) -> list[str]:
        """Parameters that are not the same in all protocols: such runs do not compare."""
        protocols = self.protocols.values()
        return [
            key
            for key in keys(protocols)
            if key != TUNED and len({json.dumps(p.get(key)) for p in protocols}) > 1
        ]


def keys(dictionaries: Iterable[dict]) -> list[str]:
    """The keys of all, once each, in the order of their appearance."""
    return list(dict.fromkeys(key for dictionary in dictionaries for key in dictionary))


def sections(runs: list[Run]) -> list[Section]:
    """A section for every evaluation that some run has."""
    by_name: dict[str, Section] = {}
    results: dict[str, list[Result]] = defaultdict(list)
    for result in (result for run in runs for result in run.results):
        name = result.evaluation
        by_name.setdefault(name, Section(name)).add(result)
        results[name].append(result)
    for name, section in by_name.items():
        section.rows += _means(section.rows, runs)
        parts = keys({row.part: None} for row in section.rows)
        section.rows.sort(key=lambda row, parts=parts: parts.index(row.part))
        section.rows += _references(results[name])
    return sorted(by_name.values(), key=_place)


def _place(section: Section) -> tuple[int, str]:
    stem = section.evaluation.split("-")[0]
    return ORDER.index(stem) if stem in ORDER else len(ORDER), section.evaluation


def leaves(values: dict, deviations: object, path: tuple = ()) -> Iterator[tuple[tuple, Value]]:
    """Every number of nested dictionaries, after its keys."""
    for key, value in values.items():
        deviation = deviations.get(key) if isinstance(deviations, dict) else None
        if isinstance(value, dict) and len(path) < DEPTH:
            yield from leaves(value, deviation, (*path, key))
        elif (mean := number(value)) is not None:
            yield (*path, key), (mean, number(deviation))


def _means(rows: list[Row], runs: list[Run]) -> Iterator[Row]:
    """Mean and sample deviation of runs whose settings differ in the seed (and in FREE) alone, and
    that were evaluated by one protocol on the same data."""
    configs = {run.name: run.config for run in runs if "seed" in run.config}
    groups: dict[tuple, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        config = configs.get(row.result.run)
        if config:
            same = {key: value for key, value in config.items() if key not in FREE}
            protocol = {key: v for key, v in row.result.protocol.items() if key != TUNED}
            experiment = json.dumps([same, protocol], sort_keys=True)
            untrained = ", untrained" in row.name
            groups[experiment, untrained, row.part][str(config["seed"])] = row
    for (*_, part), seeds in groups.items():
        if len(seeds) > 1:
            members = [row.values for row in seeds.values()]
            common = set(members[0]).intersection(*members)
            numbers = {
                key: [values[key][0] for values in members] for key in members[0] if key in common
            }
            means = {key: (fmean(values), stdev(values)) for key, values in numbers.items()}
            yield Row(f"mean: {', '.join(row.name for row in seeds.values())}", part, means, "mean")


def _references(results: list[Result]) -> list[Row]:
    """Their publications and chances, those of one content once; where those of one name differ,
    the name says of which results they are."""
    rows: dict[str, tuple[Row, list[str]]] = {}
    for result in results:
        for reference in result.references:
            model, source = str(reference.get("model")), str(reference.get("source", ""))
            values = {path[0]: value for path, value in leaves(reference, None)}
            row = Row(model, source, values, "published")
            rows.setdefault(str(row), (row, []))[1].append(result.name)
    count = Counter((row.name, row.part) for row, _ in rows.values())
    for row, names in rows.values():
        if count[row.name, row.part] > 1:
            row.name = ", ".join([row.name, *names])
    return [row for row, _ in rows.values()]
