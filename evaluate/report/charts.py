"""Curves as SVG that is part of the page, in the page's colours."""

from __future__ import annotations

import io

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from evaluate.style import COLOURS, STYLE

GRID = "#d5dae0"
POINTS = 300  # of a curve at most
SVG = {"svg.fonttype": "none", "savefig.transparent": True, "svg.hashsalt": "report"}


def chart(lines: dict[int, np.ndarray], x_label: str) -> Markup:
    """One panel without any text of a run's.

    Args:
        lines: number of the line, which gives its colour -> (n, 2) floats.
    """
    with rc_context(STYLE | SVG):
        figure = Figure(figsize=(3.4, 2.1), layout="constrained")
        axes = figure.subplots()
        for i, line in lines.items():
            chosen = np.linspace(0, len(line) - 1, min(POINTS, len(line))).round().astype(int)
            dashes = ("-", "--", ":", "-.")[min(3, i // len(COLOURS))]
            colour = COLOURS[i % len(COLOURS)]
            marker = "o" if len(line) == 1 else ""
            axes.plot(*line[chosen].T, color=colour, linestyle=dashes, marker=marker)
        axes.set_xlabel(x_label)
        axes.grid(color=GRID, linewidth=0.5)
        file = io.StringIO()
        figure.savefig(
            file, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Type", "Format"))
        )
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    for i, colour in enumerate(COLOURS):
        svg = svg.replace(colour.lower(), f"var(--line-{i})")
    for key in ("text.color", "xtick.color", "axes.edgecolor"):
        svg = svg.replace(STYLE[key], "currentColor")
    return Markup(svg.replace(GRID, "var(--edge)"))
