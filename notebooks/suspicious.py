"""Masks that are probably wrong, by rule, and the list of their images that `train --exclude`
takes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data.cache.reader import Cache
from data.io import write_text

EMPTY, EVERYTHING = 0.01, 0.95  # shares of the image
HUGS = 0.5  # share of the image's border that is covered
FLAT = 0.9  # bits: a map that decides nothing


def suspicious(
    cache: Cache,
    empty: float = EMPTY,
    everything: float = EVERYTHING,
    hugs: float = HUGS,
    flat: float = FLAT,
) -> dict[str, np.ndarray]:
    """Rows of usable images whose masks break a rule; a row may break several.

    Args:
        empty, everything: coverage below and above which a mask holds nothing or takes all.
        hugs: share of the border above which a mask is rather background.
        flat: mean binary entropy in bits above which a map decides nothing.

    Returns:
        {rule: (n,) int64 rows}.
    """
    usable = cache.status == 0
    coverage, border, entropy = (
        cache.column(f"quality/{name}") for name in ("coverage", "border", "entropy")
    )
    rules = {
        "empty": coverage < empty,
        "everything": coverage > everything,
        "hugs the border": border > hugs,
        "flat": entropy > flat,
    }
    return {name: np.flatnonzero(usable & broken) for name, broken in rules.items()}


def counts(cache: Cache, found: dict[str, np.ndarray]) -> str:
    """Lines for people: how many masks break each rule, and how many any."""
    total = max(1, len(cache))
    every = union(found)
    lines = [f"{name:<16} {len(rows):8,}  {len(rows) / total:7.2%}" for name, rows in found.items()]
    return "\n".join([*lines, f"{'any of them':<16} {len(every):8,}  {len(every) / total:7.2%}"])


def union(found: dict[str, np.ndarray], rules: Iterable[str] | None = None) -> np.ndarray:
    """(n,) int64 sorted rows that break any of `rules` (all where None)."""
    chosen = [found[rule] for rule in (found if rules is None else rules)]
    return np.unique(np.concatenate([np.empty(0, np.int64), *chosen]))


def write_exclusions(cache: Cache, rows: np.ndarray, file: str | os.PathLike) -> Path:
    """Write the paths of `rows` one a line, for `python -m train ... --exclude FILE`; the file's
    path."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, "".join(os.fsdecode(path) + "\n" for path in cache.paths[rows].tolist()))
    return file
