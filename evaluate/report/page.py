"""The page: one HTML text with its style, script and pictures inside, which asks the network for
nothing."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
from pathlib import Path

import numpy as np

from evaluate.report.charts import chart, curves, legend
from evaluate.report.collect import Run
from evaluate.report.markup import Markup, join, tag
from evaluate.report.pictures import figures, gallery
from evaluate.report.tables import Section, Table, differences, number, sections

HERE = Path(__file__).parent
TITLES = {
    "knn": "Nearest neighbours: top-1, %",
    "linear": "Linear classification, MoCo's protocol: %",
    "linear-sweep": "Linear classification, fast mode on cached features: %",
    "linear-optimum": "Linear classification, optimum on cached features: top-1, %",
    "few": "Few labels: %",
    "in9": "ImageNet-9: %",
    "backgrounds": "Changed backgrounds, embedded data set: top-1, %",
    "saliency": "Saliency",
    "detection": "Detection: AP, %",
    "diagnose": "Does it look at the object? %",
}
COLUMNS = {
    "mae": "MAE",
    "max_f_a": "maxF (a)",
    "max_f_b": "maxF (b)",
    "mean_f": "mean F",
    "adaptive_f": "adaptive F",
    "weighted_f": "weighted F",
    "s": "S",
    "mean_e": "mean E",
    "max_e": "max E",
    "adaptive_e": "adaptive E",
    "ms": "ms/image",
    "iou": "IoU",
    "adaptive_iou": "adaptive IoU",
    "max_iou": "max IoU",
}
SETTINGS = (
    "method",
    "network",
    "size",
    "epochs",
    "batch",
    "masks",
    "paste_p",
    "background",
    "control",
    "seed",
)


def page(runs: list[Run], notes: list[str], title: str, masks: int = 6, pictures: int = 8) -> str:
    """The whole page. `notes` is added to: what could not be shown.

    Args:
        masks: of every cache.  pictures: of every run, at most.
    """
    parts: list[tuple[str, Markup]] = [("Runs", _runs(runs))]
    parts += [(_title(section.evaluation), _section(section)) for section in sections(runs)]
    parts.append(("Precision and recall", _precision_recall(runs)))
    parts.append(("Pretraining", curves(runs)))
    parts.append(("Pictures", figures(runs, pictures, notes)))
    parts.append(("Masks", gallery(runs, masks, notes)))
    parts = [(heading, body) for heading, body in parts if body]
    script = Markup((HERE / "sort.js").read_text())
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # nothing but this page's own style, script and pictures may load, whatever a run's name or file
    # contains
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup((HERE / "page.css").read_text())),
    )
    links = [
        tag("li", tag("a", heading.split(":")[0], href=f"#part-{i}"))
        for i, (heading, _) in enumerate(parts)
    ]
    about = f"Made by python -m evaluate report, {datetime.date.today()}. The heading of a column sorts its table."
    body = tag(
        "body",
        tag("h1", title),
        tag("p", about),
        _notes(notes),
        tag("nav", tag("ul", *links)),
        *[
            tag("section", tag("h2", heading), content, id=f"part-{i}")
            for i, (heading, content) in enumerate(parts)
        ],
        tag("script", script),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _title(evaluation: str) -> str:
    stem, *rest = evaluation.split("-")
    if stem == "detection" and rest:
        return f"Detection, {' '.join(rest)}: AP, %"
    return TITLES.get(evaluation, evaluation)


def _notes(notes: list[str]) -> Markup:
    if not notes:
        return Markup("")
    return tag(
        "div",
        tag("p", f"Left out ({len(notes)}):"),
        tag("ul", *[tag("li", note) for note in notes]),
        class_="notes",
        role="note",
    )


def _runs(runs: list[Run]) -> Markup:
    """Where every run lies and its main settings."""
    shown = [key for key in SETTINGS if any(key in run.config for run in runs)]
    rows = []
    for run in runs:
        cells = [_value(run.config.get(key)) for key in shown]
        rows.append(
            tag(
                "tr",
                tag("th", tag("bdi", run.name), class_="text", scope="row", data_value=run.name),
                *cells,
                tag("td", tag("bdi", str(run.path)), class_="text", data_value=str(run.path)),
            )
        )
    heads = [
        _heading("run", "text"),
        *[_heading(key, "text") for key in shown],
        _heading("folder", "text"),
    ]
    return _scrolling(heads, rows)


def _value(value: object) -> Markup:
    if value is None:
        return tag("td", class_="text")
    text = Path(value).name if isinstance(value, str) else f"{value}"
    return tag("td", tag("bdi", text), class_="text", data_value=text)


def _section(section: Section) -> Markup:
    parts = [_table(section.main, section.evaluation)] if section.main.rows else []
    if len(section.protocols) > 1 and (different := differences(section.protocols)):
        parts.append(
            tag("p", f"The protocols differ in {', '.join(different)}: compare with care.")
        )
    for name, table in section.details.items():
        parts.append(
            tag(
                "details",
                tag("summary", name.replace("_", " ")),
                _table(table, section.evaluation, False),
            )
        )
    if section.protocols:
        parts.append(tag("details", tag("summary", "protocol"), _protocols(section.protocols)))
    return join(parts)


def _table(table: Table, evaluation: str, runs: bool = True) -> Markup:
    """A sortable table.

    Args:
        runs: rows are runs (and the best is marked); else they are keys, and columns runs.
    """
    columns, best = table.columns, table.best() if runs else set()
    parts = any(row.part for row in table.rows)
    digits = {
        column: decimals(
            [row.cells[column][0] for row in table.rows if column in row.cells], evaluation
        )
        for column in columns
    }
    heads = [
        _heading("run" if runs else "", "text"),
        *([_heading("of", "text")] if parts else []),
        *[
            _heading(_column(column, evaluation) if runs else column, "number")
            for column in columns
        ],
    ]
    rows = []
    for i, row in enumerate(table.rows):
        cells = [tag("th", tag("bdi", row.name), class_="text", scope="row", data_value=row.name)]
        if parts:
            cells.append(tag("td", tag("bdi", row.part), class_="text", data_value=row.part))
        for column in columns:
            if column not in row.cells:
                cells.append(tag("td", "–"))
                continue
            value, deviation = row.cells[column]
            spread = (
                ""
                if deviation is None
                else tag("span", f" ± {deviation:.{digits[column]}f}", class_="deviation")
            )
            cells.append(
                tag(
                    "td",
                    f"{value:.{digits[column]}f}",
                    spread,
                    data_value=repr(value),
                    class_="best" if (i, column) in best else None,
                )
            )
        rows.append(tag("tr", *cells, class_=row.kind if row.kind != "run" else None))
    return _scrolling(heads, rows)


def _column(name: str, evaluation: str) -> str:
    if evaluation == "knn":
        kind, _, k = name.rpartition(" ")
        return f"{kind or 'backbone'}, k = {k}"
    return COLUMNS.get(name, name.replace("_", " "))


def decimals(values: list[float], evaluation: str) -> int:
    """Digits after the point: percent have two, shares and scores between -1 and 1 four."""
    small = max(map(abs, values), default=0) <= 1 and evaluation.split("-")[0] == "saliency"
    return 4 if small else 2


def _heading(text: str, kind: str) -> Markup:
    """A column's heading; text sorts upwards first, numbers downwards."""
    return tag(
        "th",
        tag("button", text or "name", type="button"),
        scope="col",
        class_=kind,
        data_kind=kind,
        data_first="ascending" if kind == "text" else "descending",
    )


def _scrolling(heads: list[Markup], rows: list[Markup]) -> Markup:
    return tag(
        "div",
        tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows)),
        class_="scroll",
        tabindex="0",
    )


def _protocols(protocols: dict[str, dict]) -> Markup:
    """Parameters in rows, one column for each different protocol."""
    columns: dict[str, list[str]] = {}
    for run, protocol in protocols.items():
        columns.setdefault(json.dumps(protocol, sort_keys=True), []).append(run)
    found = [(", ".join(names), protocols[names[0]]) for names in columns.values()]
    keys = list(dict.fromkeys(key for _, protocol in found for key in protocol))
    rows = [
        tag(
            "tr",
            tag("th", key.replace("_", " "), class_="text", scope="row", data_value=key),
            *[
                tag("td", text := _plain(protocol.get(key)), class_="text", data_value=text)
                for _, protocol in found
            ],
        )
        for key in keys
    ]
    return _scrolling(
        [_heading("parameter", "text"), *[_heading(names, "text") for names, _ in found]], rows
    )


def _plain(value: object) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value)


def _precision_recall(runs: list[Run]) -> Markup:
    """Curves of saliency estimators, where a result has them."""
    names, lines = [], {}
    for result in (result for run in runs for result in run.results):
        estimators = result.content.get("estimators")
        for name, entry in estimators.items() if isinstance(estimators, dict) else ():
            found = entry.get("curves") if isinstance(entry, dict) else None
            precision, recall = (
                found.get(key) if isinstance(found, dict) else None
                for key in ("precision", "recall")
            )
            if (
                isinstance(precision, list)
                and isinstance(recall, list)
                and len(precision) == len(recall)
            ):
                points = [
                    (x, y)
                    for r, p in zip(recall, precision, strict=True)
                    if (x := number(r)) is not None and (y := number(p)) is not None
                ]
                if points:
                    lines[len(names)] = np.array(points)
                    names.append(name if len(runs) == 1 else f"{result.name}: {name}")
    drawn = chart(lines, "recall", names, unit=True)
    return (
        join(
            [
                legend(names),
                tag(
                    "div",
                    tag("figure", tag("figcaption", "precision over recall"), drawn),
                    class_="panels",
                ),
            ]
        )
        if drawn
        else Markup("")
    )
