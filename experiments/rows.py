"""The rows of every table: label -> row. A row that two tables share is equal in both, and so is
run once."""

from __future__ import annotations

from experiments.settings import Row, row

BASE, DILO = (
    row(),
    row("rbd"),
)  # no DiLo; DiLo as the paper has it: RBD's masks, grey, probability 0.3

E1 = {
    "none": BASE,
    "rbd": DILO,
    "shuffled": row("rbd", control="shuffled"),
    "gs": row("gs"),
    "mc": row("mc"),
    "fusion": row("fusion"),
    "spectral": row("spectral"),
    "ellipse": row("rbd", control="ellipse"),
    "truth": row("truth"),
}

E2 = {"none": BASE, "rbd": DILO}

E3 = {
    "none": BASE,
    "grey": DILO,
    "grey, no blur": row("rbd", soften_p=0.0),
    "texture": row("rbd", background="texture", textures="{textures}"),
    "image": row("rbd", background="image"),
    "random": row("rbd", background="random"),
    "swap": row("rbd", background="swap"),
}

E4 = {
    "0": BASE,
    "0.1": row("rbd", paste_p=0.1),
    "0.3": DILO,
    "0.5": row("rbd", paste_p=0.5),
    "0.7": row("rbd", paste_p=0.7),
    "1.0": row("rbd", paste_p=1.0),
}

E5 = {
    "none": BASE,
    "32": row("rbd", side=32),
    "64": row("rbd", side=64),
    "128": DILO,
    "256": row("rbd", side=256),
}

# what a method needs besides the demo's settings, which are MoCo v2's
METHODS = {
    "moco_v2": {},
    "simclr": {"method": "simclr", "batch_negatives": False},
    "instdisc": {
        "method": "instdisc",
        "batch_negatives": False,
        "head": "linear",
        "head_norm": False,
        "temperature": 0.1,
    },
    "moco_v1": {"head": "linear", "head_norm": False, "temperature": 0.1},
    "byol": {"method": "byol", "batch_negatives": False, "momentum": 0.99, "hidden": 128},
}
E6 = {
    f"{name}{'+dilo' if masks != 'none' else ''}": row(masks, **options)
    for name, options in METHODS.items()
    for masks in ("none", "rbd")
}

TABLES = {"e1": E1, "e2": E2, "e3": E3, "e4": E4, "e5": E5, "e6": E6}


def rows_of(table: str, data: str) -> dict[str, Row]:
    """The rows of a table ("e1" ... "e6") on a data set, in the order in which they are run."""
    found = dict(TABLES[table])
    if data != "embedded":
        found.pop("truth", None)  # only there are true masks known
    return found


def base_of(table: str, label: str) -> str:
    """The row without DiLo that a row is held against."""
    if table == "e6":
        return label.removesuffix("+dilo")
    return {"e4": "0", "e5": "none"}.get(table, "none")
