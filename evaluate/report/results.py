"""Runs side by side for notebooks: training curves, and every evaluation's numbers as bars and as
text."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from data.cli import UsageError
from evaluate.style import axes_grid, styled

CURVES = {
    "loss": "loss",
    "accuracy": "accuracy of the contrastive task, share",
    "lr": "learning rate",
    "pasted": "views pasted, share",
}


def read_log(run: str | os.PathLike) -> dict[str, np.ndarray]:
    """A run's log.jsonl by name: each (n, 2) float64 of epoch and value.

    Raises:
        UsageError: the folder has no log.
    """
    file = Path(run) / "log.jsonl"
    if not file.is_file():
        raise UsageError(f"{run}: no log.jsonl, so no run of `python -m train`")
    points: dict[str, list] = {}
    for line in file.read_text(errors="replace").splitlines():
        try:
            values = json.loads(line)
            epoch = float(values.get("epoch", np.nan))
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            continue  # the last line of a run that was killed
        for name, value in values.items():
            if isinstance(value, (int, float)) and abs(value) < 1e300:
                points.setdefault(name, []).append((epoch, value))
    return {name: np.array(pairs, float) for name, pairs in points.items()}


@styled
def curves(runs: Sequence[str | os.PathLike], names: Sequence[str] = tuple(CURVES)) -> Figure:
    """One panel a quantity, one line a run."""
    logs = {Path(run).name: read_log(run) for run in runs}
    figure, axes = axes_grid(1, len(names), 3.2, 2.6, "pretraining")
    for axis, name in zip(axes[0], names, strict=True):
        for run, log in logs.items():
            if name in log:
                axis.plot(*log[name].T, label=run, linewidth=1.2)
        axis.set_xlabel("epoch")
        axis.set_title(CURVES.get(name, name))
    axes[0, 0].legend()
    return figure


def results(runs: Sequence[str | os.PathLike]) -> dict[str, dict[str, float]]:
    """Every accuracy that was measured: {evaluation and what of it: {run: percent}}, in the files'
    order.

    Untrained networks, where they were evaluated, are a run of their own: "RUN, untrained".
    """
    found: dict[str, dict[str, float]] = {}
    for run in map(Path, runs):
        for file in sorted(run.glob("*.json")):
            try:
                result = json.loads(file.read_text())
            except ValueError as error:
                raise UsageError(f"{file}: not JSON ({error}); evaluate again") from error
            if isinstance(result, dict) and "evaluation" in result and "accuracy" in result:
                name = run.name + (", untrained" if result.get("untrained") else "")
                for key, value in _flat(result["accuracy"]):
                    found.setdefault(f"{result['evaluation']} {key}".strip(), {})[name] = value
    return found


def _flat(values, prefix: str = ""):
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _flat(value, f"{prefix} {key}".strip())
    elif isinstance(values, (int, float)):
        yield prefix, float(values)


def results_table(found: dict[str, dict[str, float]]) -> str:
    """`results` as aligned text, in percent."""
    if not found:
        return "no results yet: make knn linear backgrounds RUN=... DATA=..."
    names = list(dict.fromkeys(name for values in found.values() for name in values))
    width, column = max(map(len, found)), max(9, *(len(name) + 2 for name in names))
    lines = [" " * width + "".join(f"{name:>{column}}" for name in names)]
    for key, values in found.items():
        lines.append(
            f"{key:<{width}}"
            + "".join(
                f"{values[n]:{column}.1f}" if n in values else f"{'-':>{column}}" for n in names
            )
        )
    return "\n".join(lines)


@styled
def bars(found: dict[str, dict[str, float]], prefix: str, title: str) -> Figure:
    """Bars of every number whose name begins with `prefix`, a group each, a colour a run; or that
    there is none."""
    chosen = {
        key.removeprefix(prefix).strip(): values
        for key, values in found.items()
        if key.startswith(prefix)
    }
    names = list(dict.fromkeys(name for values in chosen.values() for name in values))
    figure, axes = axes_grid(1, 1, max(5, 1.3 * len(chosen)), 3, title)
    axis = axes[0, 0]
    width = 0.8 / max(1, len(names))
    for i, name in enumerate(names):
        places = np.arange(len(chosen)) + (i - (len(names) - 1) / 2) * width
        drawn = axis.bar(
            places,
            [values.get(name, np.nan) for values in chosen.values()],
            0.9 * width,
            label=name,
        )
        axis.bar_label(drawn, fmt="%.0f", fontsize=7)
    axis.set_xticks(range(len(chosen)), list(chosen))
    axis.set_ylabel("top-1, %")
    if chosen:
        figure.legend(loc="outside right upper")
    else:
        axis.text(0.5, 0.5, "not measured yet", transform=axis.transAxes, ha="center")
        axis.set_yticks([])
    return figure
