"""Options of `python -m evaluate diagnose`."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data.cli import UsageError, require
from evaluate.probes.linear import L2


@dataclass(frozen=True)
class Arguments:
    """Options of the diagnosis."""

    runs: tuple[str, ...] = ()
    """Run folders (or files of weights) to compare; `untrained:RUN` is a run's network with its
    first weights. The first one's features judge backgrounds and objects."""
    data: str = ""
    """Folder of the data set: the bank below it in train/, the queries in val/."""
    masks: str | None = None
    """Masks of the queries: a cache, or a folder of grey PNGs (default: DATA/masks where there is
    one)."""
    bank_masks: str | None = None
    """Masks of the bank, for the wrong neighbours (default: DATA/masks where it has some, else they
    are left out)."""
    queries: str | None = None
    """Folder of the queries below DATA (default: val, or original for the embedded data)."""
    bank: str = "train"
    """Folder of the neighbours below DATA; the linear decision is fitted on it too."""
    k: int = 20
    """Neighbours that vote."""
    temperature: float = 0.07
    """Temperature of their weights, exp(cosine / temperature)."""
    limit: int = 1000
    """Queries at most, evenly spaced over the folder."""
    stage: Literal[1, 2, 3, 4] | None = None
    """Stage whose resolution the maps have, 1 to 4 (default: the last one of at least 4x4)."""
    size: int | None = None
    """Side of the images given to the networks, in pixels (default: each run's own)."""
    l2: float = L2
    """Weight of the squared norm of the linear classifier (on standardised features)."""
    examples: int = 6
    """Rows of the figure; 0 draws none."""
    device: str = "auto"
    """cuda, cpu, or auto."""
    workers: int | None = None
    """Processes that decode (default: this process's share of the CPUs, fewer where /dev/shm has
    less room)."""
    json_file: Annotated[str, tyro.conf.arg(name="json")] = "runs/diagnose.json"
    """File for the numbers; the figure lies beside it, as .png."""

    def result_file(self) -> Path:
        """Where the result is written."""
        return Path(self.json_file)

    def resolve(self, embedded: bool) -> Arguments:
        """The same with the defaults that depend on the data.

        Args:
            embedded: whether the data are the embedded data set.

        Raises:
            UsageError: options that are missing or do not fit together.
        """
        if not self.runs or not self.data:
            raise UsageError("give --runs RUN [RUN ...] and --data DIR")
        if len(set(self.runs)) < len(self.runs):
            raise UsageError("--runs names the same run twice")
        require(self, "temperature", k=1, limit=1, size=1, l2=0, workers=0, examples=0)
        val = os.path.isdir(os.path.join(self.data, "val"))
        queries = self.queries or ("original" if embedded and not val else "val")
        folder = os.path.join(self.data, "masks")
        default = folder if os.path.isdir(folder) else None
        masks = default if self.masks is None else self.masks
        if masks is None:
            images = os.path.join(self.data, queries)
            raise UsageError(
                "give --masks CACHE: the masks of the queries, made by `python -m preprocess "
                f"{images} CACHE`"
            )
        # masks of the queries alone have a folder of that name
        only = os.path.isdir(os.path.join(folder, queries))
        if only and not os.path.isdir(os.path.join(folder, self.bank)):
            default = None
        bank_masks = default if self.bank_masks is None else self.bank_masks
        return replace(self, queries=queries, masks=masks, bank_masks=bank_masks)
