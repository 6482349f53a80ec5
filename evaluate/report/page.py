"""The page: one HTML text with its style, script and pictures inside, which loads nothing."""

from __future__ import annotations

import base64
import datetime
import hashlib
import unicodedata
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluate.masks.metrics import TITLES
from evaluate.report.charts import chart
from evaluate.report.pictures import galleries, pictures
from evaluate.report.runs import Run
from evaluate.report.tables import keys, sections

HERE = Path(__file__).parent
TURNING = "\u202a\u202b\u202d\u202e\u2066\u2067\u2068"  # of the direction of writing


def page(runs: list[Run], notes: list[str], title: str, masks: int = 6, figures: int = 8) -> str:
    """The whole page.

    Args:
        notes: what could not be read; what cannot be shown is added.
        masks: to show of every cache.
        figures: pictures to show of every run at most.
    """
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["keys"] = keys
    logged = [run for run in runs if run.log]
    script = (HERE / "sort.js").read_bytes()
    return environment.get_template("page.html").render(
        title=title,
        date=datetime.date.today(),
        style=Markup((HERE / "page.css").read_text()),
        script=Markup(script.decode()),
        digest=base64.b64encode(hashlib.sha256(script).digest()).decode(),
        runs=runs,
        sections=sections(runs),
        measures=TITLES,
        logged=[run.name for run in logged],
        charts=_charts(logged),
        pictures=list(pictures(runs, figures, notes)),
        galleries=list(galleries(runs, masks, notes)),
        notes=notes,
    )


def _printable(value: object) -> object:
    """Text without bytes that are no UTF-8 and control characters, also those that turn the
    direction of writing."""
    if isinstance(value, Markup) or not isinstance(value, (str, Path)):
        return value
    return "".join(
        "\ufffd" if c in TURNING or (unicodedata.category(c) in ("Cc", "Cs") and c != "\n") else c
        for c in str(value)
    )


def _charts(runs: list[Run]) -> dict[str, Markup]:
    """A chart of every quantity in the runs' logs; a run has one colour in all of them."""
    quantities = [name for name in keys(run.log for run in runs) if name != "step"]
    return {
        name: chart({i: run.log[name] for i, run in enumerate(runs) if name in run.log}, "epoch")
        for name in quantities
    }
