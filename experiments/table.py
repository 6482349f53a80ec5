"""What is shown: a table's numbers gathered into one JSON, and as Markdown beside the paper's."""

import re
from typing import TypedDict

import numpy as np
from scipy.stats import ttest_1samp

from benchmarks import publish
from experiments.paper import PAPER
from experiments.rows import base_of
from experiments.runner import Result, Study, stamp

GATE = 15.0  # points of kNN by which a baseline must beat the untrained network
LEVEL = 0.05
TITLES = {
    "e1": "E1, which masks",
    "e2": "E2, backgrounds",
    "e3": "E3, what the foreground is pasted onto",
    "e4": "E4, probability of pasting",
    "e5": "E5, side of the masks",
    "e6": "E6, methods",
}
# where `measured` has a column's number, and headings that are not the last word of that
COLUMNS = (
    "knn",
    "linear",
    "backgrounds biased mixed_rand",
    "backgrounds biased gap",
    "challenge mixed_rand",
    "challenge only_fg",
    "challenge bg_gap",
)
SPLITS = ("original", "mixed_same", "mixed_rand", "only_fg", "only_bg", "gap")
CHALLENGE = ("original", "mixed_same", "mixed_rand", "mixed_next", "only_fg", "no_fg")
E2_COLUMNS = (
    "knn",
    *(f"backgrounds biased {split}" for split in SPLITS),
    *(f"challenge {variant}" for variant in (*CHALLENGE, "only_bg_b", "only_bg_t", "bg_gap")),
    "challenge biased",
    "challenge worst_group",
    "diagnosis pointing",
    "diagnosis same_background",
)
HEADINGS = {
    "knn": "kNN",
    "bg_gap": "gap",
    "same_background": "same background",
    "worst_group": "worst group",
}
NOTES = {
    "\\*": f"\\* differs from the row without DiLo on the same seeds (paired t test, p < {LEVEL})",
    " (": f"in brackets: does not count, the baseline's kNN is not {GATE:.0f} points above the "
    "untrained network's",
    "†": "† second-hand",
    "‡": "‡ from memory, unverified",
}


class Entry(TypedDict):
    """A row's numbers: `counts` is "" or why the row does not, `mask` its masks' scores."""

    runs: list[Result]
    mask: dict[str, float] | None
    counts: str


class Table(TypedDict):
    """A table's JSON."""

    table: str
    data: str
    preset: str
    epochs: int
    stored: int
    network: str
    command: str
    commit: str
    date: str
    machine: str
    rows: dict[str, Entry]


def gather(study: Study, command: str, masks: dict[str, dict[str, float]]) -> Table:
    """The numbers of every row that has finished runs.

    Args:
        command: that makes the table, but for the seeds: the most that a row has are put there.
        masks: label -> scores of its masks.
    """
    runs = {label: list(study.results(label).values()) for label in study.rows}
    rows = {}
    for label, results in runs.items():
        counts = why_not(results, runs[base_of(study.table, label)])
        rows[label] = {"runs": results, "mask": masks.get(label), "counts": counts}
    data = study.data
    return {
        "table": study.table,
        "data": data.name,
        "preset": data.preset,
        "epochs": data.epochs,
        "stored": data.stored,
        "network": data.network,
        "command": f"{command} --seeds {max(map(len, runs.values()))}",
        **stamp(),
        "rows": rows,
    }


def why_not(runs: list[Result], base: list[Result]) -> str:
    """Why a row does not count: "" where it does, which is where its baseline beats the untrained
    network by GATE points of kNN."""
    if not runs:
        return "not run"
    untrained = [run["untrained"]["knn"] for run in base if "untrained" in run]
    if not untrained:
        return "no baseline"
    gain = np.mean([run["measured"]["knn"] for run in base]) - np.mean(untrained)
    return "" if gain >= GATE else "the baseline learned too little"


def by_seed(entry: Entry, column: str) -> dict[int, float]:
    """Seed -> one number of a row, as "backgrounds biased gap"; seeds that lack it are left
    out."""
    values = {}
    for run in entry["runs"]:
        value = run["measured"]
        for key in column.split():
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            values[run["seed"]] = value
    return values


def significant(row: dict[int, float], base: dict[int, float]) -> bool:
    """Whether a row differs from its baseline: a paired t test over the seeds of both, p < LEVEL.

    Equal seeds share their crops and colours, hence paired. Fewer than two seeds decide nothing.
    """
    differences = [row[seed] - base[seed] for seed in row.keys() & base.keys()]
    return len(differences) > 1 and bool(ttest_1samp(differences, 0).pvalue < LEVEL)


def cell(values: dict[int, float], base: dict[int, float] | None = None) -> str:
    """Mean, with the sample deviation over several seeds, marked where it differs from `base`."""
    if not values:
        return "–"
    numbers = list(values.values())
    deviation = f" ± {np.std(numbers, ddof=1):.1f}" if len(numbers) > 1 else ""
    mark = " \\*" if base is not None and significant(values, base) else ""
    return f"{np.mean(numbers):.1f}{deviation}{mark}"


def markdown(result: Table) -> str:
    """How the table was made, the table, and what its marks mean."""
    name, rows = result["table"], result["rows"]
    wanted = E2_COLUMNS if name == "e2" else COLUMNS
    columns = [column for column in wanted if any(by_seed(e, column) for e in rows.values())]
    measures = next((list(entry["mask"]) for entry in rows.values() if entry["mask"]), [])
    source, figures = PAPER[name]
    titles = [column.split()[-1] for column in columns]
    heads = ["row", "seeds", *(f"masks: {measure}" for measure in measures)]
    heads += [*(HEADINGS.get(title, title) for title in titles), *["paper"] * bool(figures)]
    lines = []
    for label, entry in rows.items():
        mask = [f"{entry['mask'][m]:.3f}" if entry["mask"] else "–" for m in measures]
        numbers = _numbers(entry, rows[base_of(name, label)], columns)
        paper = [figures.get(label, "–")] if figures else []
        lines.append(" | ".join([label, str(len(entry["runs"])), *mask, *numbers, *paper]))
    text = publish.markdown(" | ".join(heads), lines, len(heads) - 1)
    notes = [note for mark, note in NOTES.items() if mark in text]
    notes += [f"paper: {source}"] if source else []
    caption = f"**{TITLES[name]}** ({result['data']}). {_provenance(result)}"
    return f"{caption}\n\n{text}" + (f"\n\n{'; '.join(notes)}." if notes else "")


def seeds_shown(text: str) -> dict[str, int]:
    """Row -> number of its seeds, of a table as `markdown` writes it."""
    return {row: int(n) for row, n in re.findall(r"^\| ([^|]+) \| (\d+) \|", text, re.M)}


def _numbers(entry: Entry, base: Entry, columns: list[str]) -> list[str]:
    if not entry["counts"]:
        bases = [None if entry is base else by_seed(base, column) for column in columns]
        return [cell(by_seed(entry, c), b) for c, b in zip(columns, bases, strict=True)]
    first = f"({cell(by_seed(entry, 'knn'))})" if entry["runs"] else entry["counts"]
    return [first, *["–"] * (len(columns) - 1)][: len(columns)]


def _provenance(result: Table) -> str:
    # the first tables had no machine in each run
    runs = [result | run for entry in result["rows"].values() for run in entry["runs"]] or [result]
    machines, commits = (", ".join(sorted({run[k] for run in runs})) for k in ("machine", "commit"))
    copies = f"views cut from copies of {result['stored']} px, " if result["stored"] else ""
    return (
        f"`{result['command']}`, {max(run['date'] for run in runs)}, {machines}, commit {commits}; "
        f"{result['network']}, {copies}{result['epochs']} epochs; top-1 in %."
    )
