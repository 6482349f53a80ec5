"""Which rows count, and whether a difference goes the paper's way: decided by rules, not by
taste."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

GATE = 15.0  # points of kNN by which a baseline must beat the untrained network
MARGIN = (
    10.0  # points of linear top-1 that one seed cannot tell: networks of the demo move by 5 to 10
)


def passes(knn: float, untrained: float) -> bool:
    """Whether a baseline has learned enough for its rows to count."""
    return knn - untrained >= GATE


@dataclass(frozen=True)
class Difference:
    """A row against its baseline on the same seeds: mean, points, and how large a mean is told from
    noise."""

    mean: float
    margin: float
    seeds: int

    @property
    def sign(self) -> int:
        """1 better, -1 worse, 0 too small to tell."""
        return 0 if abs(self.mean) <= self.margin else int(np.sign(self.mean))


def difference(row: dict[int, float], base: dict[int, float]) -> Difference | None:
    """Paired by seed, since equal seeds share their crops and colours; None where there is no seed
    in common.

    Args:
        row, base: seed -> number. The margin is half the 95 % confidence interval of the paired
            differences' mean, by Student's t (for three seeds 4.3 standard errors); MARGIN for one
            seed.
    """
    seeds = sorted(set(row) & set(base))
    if not seeds:
        return None
    values = np.array([row[s] - base[s] for s in seeds])
    n = len(seeds)
    margin = MARGIN if n == 1 else student.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5
    return Difference(float(values.mean()), float(margin), len(seeds))


def direction(differences: dict[str, Difference | None], paper: dict[str, float]) -> str:
    """One sentence: does the direction agree with the paper's?

    Args:
        differences: label -> ours against the baseline.  paper: label -> the paper's difference,
            points.
    """
    said: dict[str, list[str]] = {"agrees": [], "disagrees": [], "is too small to tell": []}
    for label, theirs in paper.items():
        ours = differences.get(label)
        if ours is None:
            continue
        # the paper's own noise is 0.1 to 0.2, so that a tenth is nothing
        kind = (
            "is too small to tell"
            if ours.sign == 0
            else "agrees"
            if abs(theirs) > 0.1 and ours.sign == np.sign(theirs)
            else "disagrees"
        )
        said[kind].append(f"{label} ({ours.mean:+.1f} here, {theirs:+.1f} there)")
    parts = [f"{kind} for {', '.join(rows)}" for kind, rows in said.items() if rows]
    return (
        "The direction " + "; it ".join(parts) + "."
        if parts
        else "No row to compare with the paper yet."
    )
