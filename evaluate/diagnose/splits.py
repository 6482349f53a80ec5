"""What a diagnosis looks at: the bank, the queries, their masks and, on the embedded data, the
kinds of their backgrounds."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from data.cli import UsageError
from data.synthetic import dataset as synthetic
from evaluate.diagnose.arguments import Arguments
from evaluate.diagnose.parts import Split, find_masks
from train.features import Labelled


def bank_and_queries(arguments: Arguments) -> tuple[Split, Split]:
    """The bank and the queries, without the images that have no usable mask.

    Raises:
        UsageError: no such folder, or no usable mask of any image in it.
    """
    bank = Labelled(os.path.join(arguments.data, arguments.bank), 0)
    queries = Labelled(os.path.join(arguments.data, arguments.queries), 0, bank.classes)
    count = min(arguments.limit, len(queries))
    rows = np.linspace(0, len(queries) - 1, count).round().astype(int)
    return (
        _with_masks(bank, np.arange(len(bank)), arguments.bank_masks),
        _with_masks(queries, rows, arguments.masks),
    )


def _with_masks(images: Labelled, rows: np.ndarray, source: str | None) -> Split:
    if source is None:
        return Split(images, rows, None)
    masks = find_masks(source, images, rows)
    usable = [i for i, mask in enumerate(masks) if mask is not None and mask.any()]
    if not usable:
        raise UsageError(f"{source}: has no usable mask of any image in {images.root}")
    return Split(images, rows[usable], [masks[i] for i in usable])


def embedded_description(data: str) -> dict | None:
    """dataset.json of the embedded data set; None for any other data."""
    try:
        description = json.loads(Path(data, "dataset.json").read_bytes())
        version = description["name"], description["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return description if version == (synthetic.NAME, synthetic.VERSION) else None


def background_kinds(split: Split, embedded: dict) -> np.ndarray:
    """(M,) str or None: the kind of the background of each image of the embedded data."""
    folder = os.path.basename(split.images.root.rstrip("/"))
    part = folder if folder in ("train", "probe") else "test"
    seed, bias = embedded["seed"], embedded["bias"]
    numbers = [int(Path(os.fsdecode(path)).stem) for path in split.images.paths[split.rows]]
    kinds = [synthetic.background_kinds(part, i, seed=seed, bias=bias)[folder] for i in numbers]
    return np.array(kinds, object)
