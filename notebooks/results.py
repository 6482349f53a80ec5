"""Runs side by side: training curves, and the accuracies of every evaluation as text and bars."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from evaluate.common import aligned
from evaluate.diagnose.arguments import Arguments
from evaluate.diagnose.command import evaluate
from evaluate.diagnose.figure import sheet
from evaluate.report.runs import DETAILS, Run
from evaluate.report.tables import leaves
from evaluate.style import axes_grid, label, styled

CURVES = {
    "loss": "loss",
    "accuracy": "accuracy of the contrastive task, share",
    "lr": "learning rate",
    "pasted": "views pasted, share",
}
Accuracies = dict[str, dict[str, float]]  # evaluation and what of it -> run -> percent


@styled
def curves(runs: Sequence[Run]) -> Figure:
    """One panel a quantity of the logs, one line a run."""
    figure, axes = axes_grid(1, len(CURVES), 3.2, 2.6, "pretraining")
    for axis, (name, title) in zip(axes[0], CURVES.items(), strict=True):
        for run in runs:
            if name in run.log:
                axis.plot(*run.log[name].T, label=label(run.name), linewidth=1.2)
        axis.set_xlabel("epoch")
        axis.set_title(title)
    axes[0, 0].legend()
    return figure


def accuracies(runs: Sequence[Run]) -> Accuracies:
    """Every accuracy that was measured; untrained networks are a run of their own."""
    values: Accuracies = {}
    for result in (result for run in runs for result in run.results):
        for path, (value, _) in leaves(result.values, result.deviations):
            if path[0] not in DETAILS:
                values.setdefault(" ".join((result.evaluation, *path)), {})[result.name] = value
    return values


def table(values: Accuracies) -> str:
    """Aligned text, in percent."""
    if not values:
        return "no results yet: make knn linear backgrounds RUN=... DATA=..."
    rows = {key: {run: f"{x:.1f}" for run, x in row.items()} for key, row in values.items()}
    return "\n".join(aligned(rows))


@styled
def bars(values: Accuracies, prefixes: str | tuple[str, ...], title: str) -> Figure:
    """Bars of every number whose name begins with one of `prefixes`: a group each, a colour a
    run."""
    chosen = {key: row for key, row in values.items() if key.startswith(prefixes)}
    names = list(dict.fromkeys(name for row in chosen.values() for name in row))
    figure, ((axis,),) = axes_grid(1, 1, max(5, 1.3 * len(chosen)), 3, title)
    width = 0.8 / max(1, len(names))
    for i, name in enumerate(names):
        places = np.arange(len(chosen)) + (i - (len(names) - 1) / 2) * width
        heights = [row.get(name, np.nan) for row in chosen.values()]
        axis.bar_label(
            axis.bar(places, heights, 0.9 * width, label=label(name)), fmt="%.0f", fontsize=7
        )
    labels = [key.removeprefix(prefixes) if isinstance(prefixes, str) else key for key in chosen]
    axis.set_xticks(range(len(chosen)), labels)
    axis.set_ylabel("top-1, %")
    if chosen:
        figure.legend(loc="outside right upper")
    else:
        axis.text(0.5, 0.5, "not measured yet", transform=axis.transAxes, ha="center")
    return figure


def heat_maps(runs: Sequence[str], data: str, masks: str | None = None) -> Figure:
    """Where the decisions of several runs come from, on a few images of a data set."""
    arguments = Arguments(tuple(runs), data, masks, limit=50, examples=6)
    return sheet(evaluate(arguments)["pictures"])
