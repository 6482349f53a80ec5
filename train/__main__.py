"""Stage 2: contrastive pretraining, with DiLo copy-paste by the masks of a cache.

    python -m train /data/imagenet/train --masks caches/imagenet-rbd --preset moco_v2 --out
    runs/moco_v2-rbd
    python -m train /data/imagenet/train --masks none --preset moco_v2 --out runs/moco_v2       #
    the baseline

The same command continues a stopped run; Ctrl-C and SIGTERM save first.
"""

from __future__ import annotations

import sys

import tyro

from data.cli import UsageError, run
from train.config import Config
from train.presets import PRESETS


def parse(argv: list[str]) -> Config:
    """The preset's settings, overridden by the rest of the command line. UsageError where there is
    no such preset."""
    name = "moco_v2"
    for i, argument in enumerate(argv):
        if argument == "--preset" and i + 1 < len(argv):
            name = argv[i + 1]
        elif argument.startswith("--preset="):
            name = argument.split("=", 1)[1]
    if name not in PRESETS:
        raise UsageError(f"no preset {name!r}; there are: {', '.join(sorted(PRESETS))}")
    default = Config(images=tyro.MISSING, out=tyro.MISSING, **{"preset": name, **PRESETS[name]()})
    return tyro.cli(
        Config,
        args=argv,
        default=default,
        prog="python -m train",
        description=f"{__doc__}\nPresets: {', '.join(PRESETS)} (what for: docs/pretraining.md).",
    )


def main() -> None:
    from train.loop import train  # torch takes seconds to import; --help should not wait for it

    train(parse(sys.argv[1:]))


if __name__ == "__main__":
    run(main)
