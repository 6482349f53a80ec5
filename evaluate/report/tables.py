"""Results as tables: a row a run, a column a measure, with deviations where there are any."""

from __future__ import annotations

import json
from collections import defaultdict
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
    """

    name: str
    part: str
    values: dict[str, Value] = field(default_factory=dict)
    kind: str = "run"


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
            self.protocols[result.run] = result.protocol
        in_parts = all(isinstance(value, dict) for value in result.values.values())
        rows: dict[str, Row] = {}
        for path, value in leaves(result.values, result.deviations):
            part, inner = ("", path)
            if in_parts and path[0] not in DETAILS:
                part, *inner = path
            if len(inner) == 1:
                rows.setdefault(part, Row(result.run, part)).values[inner[0]] = value
            else:
                table = self.details.setdefault(f"{part} {inner[0]}".strip(), {})
                table.setdefault(" / ".join(inner[1:]), {})[result.run] = value
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
    references: dict[str, dict[str, Row]] = defaultdict(dict)
    for result in (result for run in runs for result in run.results):
        name = result.evaluation
        by_name.setdefault(name, Section(name)).add(result)
        references[name] |= _references(result)
    for name, section in by_name.items():
        section.rows += _means(section.rows, runs)
        parts = keys({row.part: None} for row in section.rows)
        section.rows.sort(key=lambda row, parts=parts: parts.index(row.part))
        section.rows += references[name].values()
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
    """Mean and sample deviation of runs whose settings differ in the seed (and in FREE) alone."""
    configs = {run.name: run.config for run in runs if "seed" in run.config}
    groups: dict[tuple, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        name = row.name.removesuffix(", untrained")
        if name in configs:
            same = {key: value for key, value in configs[name].items() if key not in FREE}
            experiment = json.dumps(same, sort_keys=True), name != row.name, row.part
            groups[experiment][str(configs[name]["seed"])] = row
    for (*_, part), seeds in groups.items():
        if len(seeds) > 1:
            members = [row.values for row in seeds.values()]
            common = set(members[0]).intersection(*members)
            numbers = {
                key: [values[key][0] for values in members] for key in members[0] if key in common
            }
            means = {key: (fmean(values), stdev(values)) for key, values in numbers.items()}
            yield Row(f"mean: {', '.join(row.name for row in seeds.values())}", part, means, "mean")


def _references(result: Result) -> dict[str, Row]:
    return {
        str(reference.get("model")): Row(
            str(reference.get("model")),
            str(reference.get("source", "")),
            {path[0]: value for path, value in leaves(reference, None)},
            "published",
        )
        for reference in result.references
    }
