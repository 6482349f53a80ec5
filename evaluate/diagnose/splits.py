"""What a diagnosis looks at: the bank, the queries, their masks and, on the embedded data, their
backgrounds' kinds."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.cli import UsageError
from data.synthetic import dataset as synthetic
from evaluate.diagnose.parts import Masks, Parts
from evaluate.features import Labelled

if TYPE_CHECKING:
    from evaluate.diagnose.command import Arguments


@dataclass(frozen=True)
class Split:
    """A split at one size: its images, the rows used, their masks (None: not known)."""

    images: Labelled
    rows: np.ndarray
    masks: list | None

    def parts(self, cut: str = "image") -> Parts:
        return Parts(self.images, self.rows, self.masks, cut)

    @property
    def labels(self) -> np.ndarray:
        return self.images.labels[self.rows]


def bank_and_queries(args: Arguments, size: int) -> tuple[Split, Split]:
    """The bank and the queries at `size` px: those with a usable mask. UsageError where there is
    none."""
    bank = Labelled(os.path.join(args.data, args.bank), size)
    asked = Labelled(os.path.join(args.data, args.queries), size, bank.classes)
    rows = np.linspace(0, len(asked) - 1, min(args.limit, len(asked))).round().astype(int)
    kept = []
    for images, some, source, name in (
        (bank, np.arange(len(bank)), args.bank_masks, args.bank),
        (asked, rows, args.masks, args.queries),
    ):
        if source is None:
            kept.append(Split(images, some, None))
            continue
        masks = Masks(source, name).find(images.paths[some])
        have = [i for i, mask in enumerate(masks) if mask is not None and mask.any()]
        if not have:
            raise UsageError(f"{source}: has no usable mask of any image in {images.root}")
        kept.append(Split(images, some[have], [masks[i] for i in have]))
    return kept[0], kept[1]


def without_mask(args: Arguments, asked: Split) -> int:
    """How many queries were left out because they have no usable mask."""
    return min(args.limit, len(asked.images)) - len(asked.rows)


def masks_of(given: str | None, data: str) -> str | None:
    """The masks that were named, or DATA/masks where there is such a folder."""
    default = os.path.join(data, "masks")
    return given if given is not None else default if os.path.isdir(default) else None


def embedded_description(data: str) -> dict | None:
    """dataset.json of the embedded data set; None for any other data."""
    try:
        found = json.loads(Path(data, "dataset.json").read_bytes())
        return (
            found
            if found["name"] == synthetic.NAME and found["version"] == synthetic.VERSION
            else None
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def background_kind(split: Split, i: int, embedded: dict) -> str | None:
    """What the background of the embedded data's image i of a split is of."""
    folder = os.path.basename(split.images.root.rstrip("/"))
    index = int(Path(os.fsdecode(split.images.paths[split.rows[i]])).stem)
    part = folder if folder in ("train", "probe") else "test"
    return synthetic.background_kinds(part, index, seed=embedded["seed"], bias=embedded["bias"])[
        folder
    ]
