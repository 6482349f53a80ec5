"""The command line of `python -m train`."""

import argparse
import dataclasses

import tyro

from train.config import Config, flag
from train.methods import METHODS
from train.presets import PRESETS, configure


def parse(argv: list[str], description: str = "") -> Config:
    """The preset's settings, overridden by the rest of the command line; the settings of another
    method are no options. UsageError where there is no such preset or method."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", default="moco_v2")
    first.add_argument("--method", default=argparse.SUPPRESS)
    chosen, rest = first.parse_known_args(argv)
    default = configure(images=tyro.MISSING, out=tyro.MISSING, **vars(chosen))
    # turning off what only another method has, such as --no-batch-negatives, is no error
    every = {field.name for method in METHODS.values() for field in dataclasses.fields(method)}
    own = {field.name for field in dataclasses.fields(default.method)}
    foreign = {flag(f"no_{name}") for name in every - own}
    return tyro.cli(
        tyro.conf.OmitArgPrefixes[Config[type(default.method)]],
        args=[argument for argument in rest if argument not in foreign],
        default=default,
        prog="python -m train",
        description=f"{description}\nPresets: {', '.join(PRESETS)} (docs/pretraining.md).\n"
        f"Methods: {', '.join(METHODS)}; each has options of its own (--method NAME --help).",
    )
