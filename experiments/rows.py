"""What is run: the data sets with their budgets, and the rows of every table as options of
`python -m train`.

A row that two tables share is equal in both, and so is run once.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from data.cli import UsageError

SIDE = 128  # of the masks, pixels, unless a row says otherwise
MOCOS_OWN = ("symmetric", "momentum", "batch_negatives", "queue")
# options of imagenette64, which are MoCo's, that another method does not have
FOREIGN = {"simclr": MOCOS_OWN, "instdisc": MOCOS_OWN, "byol": (*MOCOS_OWN, "temperature")}
# moco_v2_demo's way of making MoCo v2 learn in few steps
MOCO_64 = {"symmetric": False, "momentum": 0.9, "batch_negatives": True, "queue": 1024}
Options = tuple[tuple[str, str], ...]


def real_data(name: str) -> Path:
    """The folder of a set of real images, or where it would be: $DILO_SHARED/data/NAME."""
    return Path(os.environ.get("DILO_SHARED", "../shared"), "data", name)


@dataclass(frozen=True)
class Data:
    """A data set at the size and budget that its rows share.

    Attributes:
        epochs: passes over the training images.
        images: of the embedded set: (train, probe, test).
        stored: side of the copies that are trained on, in pixels; 0 trains on the images as they
            are.
        source: folder of real images; "" for the embedded set.
        network: what is trained, in words.
        options: of `python -m train`, beside preset and epochs.
    """

    name: str
    epochs: int
    images: tuple[int, int, int] = (0, 0, 0)
    stored: int = 0
    source: str = ""
    preset: str = "simclr_demo"
    network: str = "the reduced version: narrow ResNet-10 at 32 px"
    options: Options = ()

    @property
    def common(self) -> Options:
        """Options of `python -m train` that all rows share, besides preset and epochs."""
        # 5 px at ImageNet's 500 are 1 % of the width, of the copies here
        soften = (("soften_sigma", f"{self.stored / 100:g}"),) if self.stored else ()
        return (*soften, *self.options)

    @property
    def folder(self) -> str:
        """Name of the folder of runs and mask caches, which budgets on the same images share."""
        return Path(self.source).name.partition("_")[0] or self.name


@dataclass(frozen=True)
class Row:
    """One pretraining, whatever its seed; equal rows of two tables are the same run.

    Attributes:
        masks: an estimator's name, "none" (no DiLo), or "truth" (the embedded data's own masks).
        options: of `python -m train`, as (field name, value), sorted.
        side: of the masks, in pixels.
    """

    masks: str = "none"
    options: Options = ()
    side: int = SIDE

    def folder(self, data: Data) -> str:
        """Name of the row's folder: readable, with a hash of everything that its runs depend
        on."""
        identity = {
            "data": [data.name, list(data.images), data.stored],
            "preset": data.preset,
            "epochs": data.epochs,
            "common": data.common,
            "masks": self.masks,
            "side": self.side if self.masks != "none" else 0,
            "options": sorted(self.options),
        }
        text = json.dumps(identity, sort_keys=True).encode()
        words = [self.masks]
        words += [f"{name}={value}".replace(" ", "_") for name, value in sorted(self.options)]
        if self.side != SIDE:
            words.append(f"side={self.side}")
        return f"{'-'.join(words)[:80]}-{hashlib.blake2b(text, digest_size=4).hexdigest()}"


def row(masks: str = "none", side: int = SIDE, **options: object) -> Row:
    """A row; options are settings of `python -m train`, by their flat names."""
    return Row(masks, tuple(sorted((name, str(value)) for name, value in options.items())), side)


def flags(options: Options) -> list[str]:
    """Options as a command line's: True and False are switches, several values are separated by
    spaces, {textures} is where the texture pictures lie."""
    arguments = []
    for name, value in options:
        flag = name.replace("_", "-")
        if value in ("True", "False"):
            arguments.append(f"--{flag}" if value == "True" else f"--no-{flag}")
        else:
            words = [word.format(textures=real_data("dtd")) for word in value.split()]
            arguments += [f"--{flag}", *words]
    return arguments


def method_flags(data: Data, row: Row) -> list[str]:
    """The row's options on that data set, as a command line's, without those of another method."""
    foreign = FOREIGN.get(dict(row.options).get("method", "moco"), ())
    common = tuple((name, value) for name, value in data.common if name not in foreign)
    return [*flags(common), *flags(row.options)]


def choose(name: str, epochs: int | None = None) -> Data:
    """The data set of that name, with its own number of epochs or another.

    `embedded` is the demo's. Of Imagenette at 128 px, masks are made at that size: `imagenette`
    takes its views from copies of 48 px; `imagenette64` is MoCo v2's ResNet-18 at 64 px for a GPU
    (five runs side by side take 3 minutes of an H200), and `imagenette64-simclr` SimCLR's.

    Raises:
        UsageError: a wrong number of epochs.
    """
    if epochs is not None and epochs < 1:
        raise UsageError(f"--epochs {epochs}: must be at least 1")
    source = str(real_data("imagenette_128"))
    if name == "embedded":
        return Data(name, epochs or 14, images=(6000, 1000, 1000))
    if name == "imagenette":
        return Data(name, epochs or 50, stored=48, source=source)
    options = {"stem": "small_stride2", "batch": 256, "lr": 0.12, "temperature": 0.2}
    options |= {"head_norm": True, "splits": 1}
    preset = "simclr_small"
    if name == "imagenette64":
        preset, options = "moco_v2_small", options | MOCO_64
    network = "ResNet-18 at 64 px"
    return Data(name, epochs or 60, (0, 0, 0), 0, source, preset, network, row(**options).options)


BASE = row()
DILO = row("rbd")  # as the paper has it: RBD's masks, grey, probability 0.3

# what a method needs besides the settings of simclr_demo
MOCO = {"method": "moco", "queue": 256, "momentum": 0.5, "batch_negatives": True}
METHODS = {
    "simclr": {"method": "simclr"},
    "moco_v2": MOCO,
    "moco_v1": MOCO | {"head": "linear", "head_norm": False, "temperature": 0.1},
    "instdisc": {"method": "instdisc", "head": "linear", "head_norm": False, "temperature": 0.1},
    "byol": {"method": "byol", "momentum": 0.99, "hidden": 128},
}
HUMAN_TAUGHT = row("u2netp")  # with its authors' weights

MAIN = {
    "none": BASE,
    "rbd": DILO,
    "fusion": row("fusion"),
    "shuffled": row("rbd", control="shuffled"),
    "ellipse": row("rbd", control="ellipse"),
}

# in each, what decides most comes first
TABLES = {
    "e1": {
        **MAIN,
        "truth": row("truth"),
        "u2netp, human-taught": HUMAN_TAUGHT,
        "gs": row("gs"),
        "mc": row("mc"),
        "spectral": row("spectral"),
    },
    "e2": {**MAIN, "u2netp, human-taught": HUMAN_TAUGHT},
    "e3": {
        "none": BASE,
        "grey": row("fusion"),
        "random": row("fusion", background="random"),
        "swap": row("fusion", background="swap"),
        "texture": row("fusion", background="texture", textures="{textures}"),
        "image": row("fusion", background="image"),
        "grey, no blur": row("fusion", soften_p=0.0),
    },
    "e4": {
        "0": BASE,
        "0.1": row("rbd", paste_p=0.1),
        "0.3": DILO,
        "0.5": row("rbd", paste_p=0.5),
        "0.7": row("rbd", paste_p=0.7),
        "1.0": row("rbd", paste_p=1.0),
    },
    "e5": {
        "none": BASE,
        "32": row("rbd", side=32),
        "64": row("rbd", side=64),
        "128": DILO,
        "256": row("rbd", side=256),
    },
    "e6": {},
}


def rows_of(table: str, data: str) -> dict[str, Row]:
    """The rows of a table ("e1" ... "e6") on a data set, in the order in which they are run; true
    masks are known of the embedded one alone."""
    if table == "e6":
        return _methods("moco_v2" if data == "imagenette64" else "simclr")
    return {
        label: row
        for label, row in TABLES[table].items()
        if data == "embedded" or row.masks != "truth"
    }


def _methods(base: str) -> dict[str, Row]:
    """Every method without and with DiLo; `base` is the data set's own, which needs no options."""
    rows = {}
    for name, options in METHODS.items():
        if base == "moco_v2":
            options = {key: value for key, value in options.items() if MOCO.get(key) != value}
        if name == base:
            options = {}
        rows |= {name: row(**options), f"{name}+dilo": row("rbd", **options)}
    return rows


def base_of(table: str, label: str) -> str:
    """The row without DiLo that a row is compared with."""
    if table == "e6":
        return label.removesuffix("+dilo")
    return "0" if table == "e4" else "none"
