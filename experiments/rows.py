"""The rows of every table: label -> row. A row that two tables share is equal in both, and so is run once."""

from __future__ import annotations

from experiments.settings import Row, row

BASE, DILO = row(), row("rbd")  # no DiLo; DiLo as the paper has it

E1 = {"none": BASE, "rbd": DILO, "shuffled": row("rbd", control="shuffled"), "gs": row("gs"), "mc": row("mc"),
      "fusion": row("fusion"), "spectral": row("spectral"), "ellipse": row("rbd", control="ellipse"),
      "selftaught": row("selftaught"), "truth": row("truth")}


def rows_of(table: str, data: str) -> dict[str, Row]:
    """The rows of a table ("e1" ... "e6") on a data set, in the order in which they are run."""
    found = dict(TABLES[table])
    if data != "embedded":
        found.pop("truth", None)  # only there are true masks known
    return found


TABLES = {"e1": E1}
