"""Masks that are probably wrong, by rule, and the list of their images that `train --exclude`
takes."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data.cache.reader import Cache
from data.io import write_bytes


def suspicious(
    cache: Cache,
    empty: float = 0.01,
    everything: float = 0.95,
    hugs: float = 0.5,
    flat: float = 0.9,
) -> dict[str, np.ndarray]:
    """Rows of usable images whose masks break a rule; a row may break several.

    Args:
        empty, everything: coverage below and above which a mask holds nothing or takes all.
        hugs: share of the border above which a mask is rather background.
        flat: mean binary entropy in bits above which a map decides nothing.

    Returns:
        {rule: (n,) int64 rows}.
    """
    columns = (cache.column(f"quality/{name}") for name in ("coverage", "border", "entropy"))
    coverage, border, entropy = columns
    rules = {
        "empty": coverage < empty,
        "everything": coverage > everything,
        "hugs the border": border > hugs,
        "flat": entropy > flat,
    }
    usable = cache.status == 0
    return {name: np.flatnonzero(usable & broken) for name, broken in rules.items()}


def counts(cache: Cache, rows: dict[str, np.ndarray]) -> str:
    """Lines for people: how many masks break each rule, and how many any."""
    total = max(1, len(cache))
    lines = {**rows, "any of them": union(rows.values())}
    return "\n".join(f"{name:<16} {len(r):8,}  {len(r) / total:7.2%}" for name, r in lines.items())


def union(rows: Iterable[np.ndarray]) -> np.ndarray:
    """(n,) int64 sorted rows of all rules."""
    return np.unique(np.concatenate([np.empty(0, np.int64), *rows]))


def write_exclusions(cache: Cache, rows: np.ndarray, file: str | os.PathLike) -> Path:
    """Write the paths of `rows` one a line, for `python -m train ... --exclude FILE`; the file's
    path."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(file, b"".join(path + b"\n" for path in cache.paths[rows].tolist()))
    return file
