"""What a row of a table is, and the data sets and budgets that rows are run on."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from data.cli import UsageError

SIDE = 128  # of the masks, pixels, unless a row says otherwise


@dataclass(frozen=True)
class Data:
    """A data set at the size and budget that its rows share.

    Attributes:
        epochs: passes over the training images.
        images: of the embedded set: (train, probe, test).
        stored: side of the copies that are trained on, in pixels; 0 trains on the images as they
            are.
        network: what is trained, in words.
        options: of `python -m train`, as a row's.
    """

    name: str
    epochs: int
    images: tuple[int, int, int] = (0, 0, 0)
    stored: int = 0
    source: str = ""
    preset: str = "moco_v2_demo"
    network: str = "the reduced version: narrow ResNet-10 at 32 px"
    options: tuple[tuple[str, str], ...] = ()

    @property
    def common(self) -> tuple[tuple[str, str], ...]:
        """Options of `python -m train` that all rows share, besides preset and epochs."""
        # 5 px at ImageNet's 500 are 1 % of the width, of the copies here
        return (
            *((("soften_sigma", f"{self.stored / 100:g}"),) if self.stored else ()),
            *self.options,
        )

    @property
    def folder(self) -> str:
        """Name of the folder of runs, and of mask caches, which budgets on the same images
        share."""
        return Path(self.source).name.partition("_")[0] if self.source else self.name


def embedded(epochs: int | None = None) -> Data:
    """The demo's data set and budget."""
    return Data("embedded", epochs or 14, images=(6000, 1000, 1000))


def imagenette(epochs: int | None = None) -> Data:
    """Imagenette, squashed to 128 px; masks are made at that size, the views come from copies of 48
    px."""
    source = Path(os.environ.get("DILO_SHARED", "../shared"), "data", "imagenette_128")
    return Data("imagenette", epochs or 50, stored=48, source=str(source))


def imagenette64(epochs: int | None = None) -> Data:
    """Imagenette with a whole ResNet-18 at 64 px, for a GPU: five runs side by side take 3 minutes
    of an H200.

    The settings are moco_v2_demo's way of making MoCo v2 learn in few steps.
    """
    options = {
        "stem": "small_stride2",
        "symmetric": False,
        "batch": 256,
        "lr": 0.12,
        "temperature": 0.2,
        "momentum": 0.9,
        "head_norm": True,
        "batch_negatives": True,
        "splits": 1,
        "queue": 1024,
    }
    return Data(
        "imagenette64",
        epochs or 60,
        source=imagenette().source,
        preset="moco_v2_small",
        network="ResNet-18 at 64 px",
        options=row(**options).options,
    )


DATA = {"embedded": embedded, "imagenette": imagenette, "imagenette64": imagenette64}


@dataclass(frozen=True)
class Row:
    """One pretraining, whatever its seed; equal rows of two tables are the same run.

    Attributes:
        masks: an estimator's name, "none" (no DiLo), or "truth" (the embedded data's own masks).
        options: of `python -m train`, as (field name, value), sorted.
        side: of the masks, in pixels.
    """

    masks: str = "none"
    options: tuple[tuple[str, str], ...] = ()
    side: int = SIDE

    def folder(self, data: Data) -> str:
        """Name of the row's folder: readable, with a hash of everything that makes its runs what
        they are."""
        what = {
            "data": [data.name, list(data.images), data.stored],
            "preset": data.preset,
            "epochs": data.epochs,
            "common": data.common,
            "masks": self.masks,
            "side": self.side if self.masks != "none" else 0,
            "options": sorted(self.options),
        }
        digest = hashlib.blake2b(
            json.dumps(what, sort_keys=True).encode(), digest_size=4
        ).hexdigest()
        words = [
            self.masks,
            *(f"{name}={value}".replace(" ", "_") for name, value in sorted(self.options)),
        ]
        if self.side != SIDE:
            words.append(f"side={self.side}")
        return f"{'-'.join(words)[:80]}-{digest}"


def row(masks: str = "none", side: int = SIDE, **options: object) -> Row:
    """A row; options are fields of train.config.Config."""
    return Row(masks, tuple(sorted((name, str(value)) for name, value in options.items())), side)


def textures() -> str:
    """The folder of texture pictures; a row says {textures}, so that its name does not depend on
    where they lie."""
    return str(Path(os.environ.get("DILO_SHARED", "../shared"), "data", "dtd"))


def flags(options: tuple[tuple[str, str], ...]) -> list[str]:
    """Options as a command line's: True and False are switches, several values are separated by
    spaces."""
    found = []
    for name, value in options:
        name, value = name.replace("_", "-"), value.replace("{textures}", textures())
        found += (
            [f"--{name}"]
            if value == "True"
            else [f"--no-{name}"]
            if value == "False"
            else [f"--{name}", *value.split()]
        )
    return found


def choose(name: str, epochs: int | None) -> Data:
    """The data set of that name. UsageError where there is none, or its images are not there."""
    if epochs is not None and epochs < 1:
        raise UsageError(f"--epochs {epochs}: must be at least 1")
    data = DATA[name](epochs)
    if data.source and not Path(data.source, "train").is_dir():
        raise UsageError(
            f"{data.source}: no Imagenette there; set DILO_SHARED to the folder whose "
            "data/imagenette_128 holds it"
        )
    return data
