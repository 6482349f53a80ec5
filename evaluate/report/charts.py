"""Curves as inline SVG: they scale with the page, take its colours in light and dark, and need no
script."""

from __future__ import annotations

import math

import numpy as np

from evaluate.report.collect import Run
from evaluate.report.markup import Markup, join, tag

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 340, 210, 48, 10, 10, 34
COLOURS = 7  # --line-0 to --line-6 in page.css; after that the lines are dashed
POINTS = 300  # of a curve at most
NAMES = {
    "loss": "loss",
    "accuracy": "accuracy of the contrastive task, share",
    "lr": "learning rate",
    "knn": "nearest neighbours, top-1, %",
    "pasted": "views pasted, share",
    "coverage": "coverage of pasted masks",
    "waiting": "time waiting for data, share",
    "images_per_second": "images a second",
    "memory_gb": "memory, GB",
}


def curves(runs: list[Run]) -> Markup:
    """A panel for every quantity in the runs' logs, a line a run, with one legend; empty where
    there is no log."""
    logged = [run for run in runs if run.log]
    quantities = list(
        dict.fromkeys(name for run in logged for name in run.log if name not in ("step", "epoch"))
    )
    quantities.sort(key=lambda name: list(NAMES).index(name) if name in NAMES else len(NAMES))
    panels = []
    for name in quantities:
        lines = {i: run.log[name] for i, run in enumerate(logged) if name in run.log}
        drawn = chart(lines, "epoch", [run.name for run in logged])
        if drawn:
            panels.append(tag("figure", tag("figcaption", NAMES.get(name, name)), drawn))
    return (
        join([legend([run.name for run in logged]), tag("div", *panels, class_="panels")])
        if panels
        else Markup("")
    )


def legend(names: list[str]) -> Markup:
    items = [
        tag(
            "li",
            tag(
                "svg",
                tag("line", x1=0, y1=6, x2=22, y2=6, class_=line_class(i)),
                viewBox="0 0 22 12",
                width=22,
                height=12,
                aria_hidden="true",
            ),
            tag("bdi", name),
        )
        for i, name in enumerate(names)
    ]
    return tag("ul", *items, class_="legend")


def line_class(i: int) -> str:
    return f"line c{i % COLOURS}" + (f" d{min(3, i // COLOURS)}" if i >= COLOURS else "")


def chart(
    lines: dict[int, np.ndarray], x_name: str, titles: list[str], unit: bool = False
) -> Markup | None:
    """One panel.

    Args:
        lines: number of the line -> (n, 2) floats; points that are not finite are left out.
        titles: of all lines, shown where the pointer is.
        unit: axes from 0 to 1 whatever the values.

    Returns:
        None where no line has a point.
    """
    lines = {i: thin(line[np.isfinite(line).all(1)]) for i, line in lines.items() if len(line)}
    lines = {i: line for i, line in lines.items() if len(line)}
    if not lines:
        return None
    everything = np.concatenate(list(lines.values()))
    (x0, y0), (x1, y1) = (
        ((0, 0), (1, 1)) if unit else (everything.min(0).tolist(), everything.max(0).tolist())
    )
    x0, x1 = _widen(x0, x1)
    y0, y1 = _widen(y0, y1)

    def across(x: float) -> float:
        return LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for y in ticks(y0, y1):
        parts += [
            tag(
                "line",
                x1=LEFT,
                x2=WIDTH - RIGHT,
                y1=f"{up(y):.1f}",
                y2=f"{up(y):.1f}",
                class_="grid",
            ),
            tag("text", f"{y:.6g}", x=LEFT - 5, y=f"{up(y) + 3.5:.1f}", text_anchor="end"),
        ]
    for x in ticks(x0, x1):
        parts += [
            tag(
                "line",
                x1=f"{across(x):.1f}",
                x2=f"{across(x):.1f}",
                y1=TOP,
                y2=HEIGHT - BOTTOM,
                class_="grid",
            ),
            tag(
                "text",
                f"{x:.6g}",
                x=f"{across(x):.1f}",
                y=HEIGHT - BOTTOM + 14,
                text_anchor="middle",
            ),
        ]
    parts.append(
        tag("text", x_name, x=(LEFT + WIDTH - RIGHT) / 2, y=HEIGHT - 4, text_anchor="middle")
    )
    for i, line in lines.items():
        points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line.tolist())
        shape = (
            tag("polyline", tag("title", titles[i]), points=points, class_=line_class(i))
            if len(line) > 1
            else tag(
                "circle",
                tag("title", titles[i]),
                cx=points.split(",")[0],
                cy=points.split(",")[1],
                r=3,
                class_=f"dot {line_class(i)}",
            )
        )
        parts.append(shape)
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img")


def thin(line: np.ndarray) -> np.ndarray:
    """At most POINTS of the points, evenly, the first and the last among them."""
    if len(line) <= POINTS:
        return line
    return line[np.linspace(0, len(line) - 1, POINTS).round().astype(int)]


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers within low..high."""
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _widen(low: float, high: float) -> tuple[float, float]:
    """Never an empty span."""
    if high - low > 1e-9 * max(abs(low), abs(high), 1e-30):
        return low, high
    margin = abs(low) / 10 or 1.0
    return low - margin, high + margin
