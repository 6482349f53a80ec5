"""Stage 2: contrastive pretraining, with DiLo copy-paste by the masks of a cache.

    python -m train /data/imagenet/train --masks caches/imagenet-rbd --out runs/moco_v2-rbd
    python -m train /data/imagenet/train --masks none --out runs/moco_v2          # the baseline

The same command continues a stopped run; Ctrl-C and SIGTERM save first.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys

import tyro

from data.cli import run
from train.config import Config, MethodSettings, flag
from train.loop import train
from train.methods import METHODS
from train.presets import PRESETS, configure


def parse(argv: list[str]) -> Config:
    """The preset's settings, overridden by the rest of the command line; the settings of another
    method are no options. UsageError where there is no such preset or method."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="moco_v2")
    first.add_argument("--method")
    chosen, rest = first.parse_known_args(argv)
    changes = {} if chosen.method is None else {"method": chosen.method}
    default = configure(chosen.preset, images=tyro.MISSING, out=tyro.MISSING, **changes)
    return tyro.cli(
        tyro.conf.OmitArgPrefixes[Config[type(default.method)]],
        args=_without_foreign_switches(rest, default.method),
        default=default,
        prog="python -m train",
        description=f"{__doc__}\nPresets: {', '.join(PRESETS)} (what for: docs/pretraining.md).\n"
        f"Methods: {', '.join(METHODS)}; each has options of its own (--method NAME --help).",
    )


def _without_foreign_switches(arguments: list[str], method: MethodSettings) -> list[str]:
    """Turning off what only another method has, such as --no-batch-negatives, is no error."""
    own = {field.name for field in dataclasses.fields(method)}
    foreign = {
        flag(f"no_{field.name}")
        for other in METHODS.values()
        for field in dataclasses.fields(other)
        if isinstance(field.default, bool) and field.name not in own
    }
    return [argument for argument in arguments if argument not in foreign]


def main() -> None:
    train(parse(sys.argv[1:]))


if __name__ == "__main__":
    run(main)
