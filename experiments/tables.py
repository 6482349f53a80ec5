"""A table's numbers as Markdown, beside the paper's."""

from __future__ import annotations

import numpy as np

from experiments.paper import LEGEND, PAPER, figure
from experiments.results import against_base, by_seed
from experiments.rows import base_of
from experiments.verdict import GATE, MARGIN, difference, direction

# heading -> where a run's JSON has the number
COMMON = {"kNN": ("knn",), "linear": ("linear",)}
BACKGROUNDS = {
    "mixed_rand": ("backgrounds", "biased", "mixed_rand"),
    "gap": ("backgrounds", "biased", "gap"),
}
E2 = {
    split: ("backgrounds", "biased", split)
    for split in ("original", "mixed_same", "mixed_rand", "only_fg", "only_bg", "gap")
}
CHALLENGE = {
    variant: ("challenge", variant)
    for variant in (
        "original",
        "mixed_same",
        "mixed_rand",
        "mixed_next",
        "only_fg",
        "no_fg",
        "only_bg_b",
        "only_bg_t",
    )
}
CHALLENGE["gap"] = ("challenge", "bg_gap")
DIAGNOSIS = {
    "pointing": ("diagnosis", "pointing"),
    "same background": ("diagnosis", "same_background"),
}
TITLES = {
    "e1": "E1, which masks",
    "e2": "E2, backgrounds",
    "e3": "E3, what the foreground is pasted onto",
    "e4": "E4, probability of pasting",
    "e5": "E5, side of the masks",
    "e6": "E6, methods",
}


def columns(result: dict) -> dict[str, tuple[str, ...]]:
    """Heading -> keys of the columns that some run of the table has a number for."""
    if result["table"] == "e2":
        wanted = {"kNN": ("knn",), **other_backgrounds(result), **DIAGNOSIS}
    else:
        wanted = {**COMMON, **BACKGROUNDS}
    return {
        name: keys
        for name, keys in wanted.items()
        if any(by_seed(e, *keys) for e in result["rows"].values())
    }


def other_backgrounds(result: dict) -> dict[str, tuple[str, ...]]:
    """E2's splits: the embedded data's own, or those of the set made from photographs."""
    return E2 if result["data"] == "embedded" else CHALLENGE


def cell(values: dict[int, float]) -> str:
    """Mean, with the sample deviation where there are several seeds."""
    if not values:
        return "–"
    numbers = np.array(list(values.values()))
    return f"{numbers.mean():.1f}" + (f" ± {numbers.std(ddof=1):.1f}" if len(numbers) > 1 else "")


def text(result: dict) -> str:
    """The table, how it was made, and a sentence on the direction."""
    name, rows = result["table"], result["rows"]
    found, scored = columns(result), [label for label, entry in rows.items() if entry["mask"]]
    measures = list(rows[scored[0]]["mask"]) if scored else []
    heads = ["row", "seeds", *(f"masks: {m}" for m in measures), *found, "paper"]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "--:|" * (len(heads) - 1)]
    for label, entry in rows.items():
        masks = [f"{entry['mask'][m]:.3f}" if entry["mask"] else "–" for m in measures]
        numbers = [
            cell(by_seed(entry, *keys)) if not entry["counts"] else "–" for keys in found.values()
        ]
        if entry["counts"] and numbers:
            numbers[0] = entry["counts"].split(":")[0]
        lines.append(
            "| "
            + " | ".join([label, str(len(entry["runs"])), *masks, *numbers, figure(name, label)])
            + " |"
        )
    return "\n".join(
        [
            f"**{TITLES[name]}** ({result['data']}). {_made(result)}",
            "",
            *lines,
            "",
            _verdict(result),
        ]
    )


def _made(result: dict) -> str:
    runs = [run for entry in result["rows"].values() for run in entry["runs"]]
    machines = sorted({run["machine"] for run in runs if "machine" in run}) or [result["machine"]]
    commits = sorted({run["commit"] for run in runs}) or [result["commit"]]
    small = f"views cut from copies of {result['stored']} px, " if result["stored"] else ""
    commits = f"commit{'s' * (len(commits) > 1)} {', '.join(commits)}"
    return (
        f"`{result['command']}`, {result['date']}, {', '.join(machines)}; runs of {commits}; "
        f"{result['network']}, {small}{result['epochs']} epochs; top-1 in %."
    )


def _verdict(result: dict) -> str:
    name = result["table"]
    what, figures = PAPER[name]
    small = _too_small(result["rows"])
    if small and all(entry["counts"] for entry in result["rows"].values()):
        return small
    asked = other_backgrounds(result)["mixed_rand"] if name == "e2" else COMMON["linear"]
    differences = against_base(result, *asked)
    theirs = {
        label: value - figures[base_of(name, label)][0]
        for label, (value, _) in figures.items()
        if label != base_of(name, label) and base_of(name, label) in figures
    }
    said = [direction(differences, theirs)] if figures else []
    unlike = [
        f"{label} {d.mean:+.1f}" + (" (not told from noise)" if d.sign == 0 else "")
        for label, d in differences.items()
        if d is not None and label not in theirs
    ]
    if unlike:
        said.append(
            "Without a figure of the paper, against the row without DiLo (linear): "
            + ", ".join(unlike)
            + "."
        )
    if name == "e1":
        said.append(_controls(result))
    if name == "e2" and result["data"] != "embedded":
        said.append(
            "Variants of validation images, their objects cut out by fusion's masks, asked by a probe on the "
            "training images: they compare with each other, never with ImageNet-9's."
        )
    if name == "e5":
        said.append(
            "Masks, on 250 images of ECSSD's even numbers: what RBD's maps lose on the way to that side and "
            "back (mean absolute difference, 0..1), and the IoU of true masks after it."
        )
    used = {figure(name, label)[-1:] for label in figures}
    said.append(
        f"Paper: {'; '.join([what, *(told for mark, told in LEGEND.items() if mark in used)])}."
        if figures
        else "The paper has no such table."
    )
    if any(len(entry["runs"]) == 1 for entry in result["rows"].values()):
        said.append(f"One seed does not tell differences below {MARGIN:.0f} points from noise.")
    return " ".join(filter(None, [*said, small]))


def _too_small(rows: dict[str, dict]) -> str:
    """What is not counted because its baseline learned too little, and its kNN all the same; ""
    where all counts."""
    told: dict[str, list[str]] = {}
    for label, entry in rows.items():
        if entry["counts"].startswith("too small"):
            told.setdefault(entry["counts"], []).append(f"{label} {cell(by_seed(entry, 'knn'))}")
    if not told:
        return ""
    parts = [f"{', '.join(seen)} ({why})" for why, seen in told.items()]
    return f"Rows that do not count, with their kNN: {'; '.join(parts)}; {GATE:.0f} points above untrained are needed."


def _controls(result: dict) -> str:
    """Does localization matter, or only occlusion? RBD's masks against the controls."""
    found = []
    for control in ("shuffled", "ellipse"):
        entries = [result["rows"][label] for label in ("rbd", control)]
        gained = (
            None
            if any(e["counts"] for e in entries)
            else difference(*(by_seed(e, "linear") for e in entries))
        )
        if gained is not None:
            found.append(
                f"{gained.mean:+.1f} over {control}"
                + (" (not told from noise)" if gained.sign == 0 else "")
            )
    return f"Localization or occlusion: rbd has {' and '.join(found)}, linear." if found else ""
