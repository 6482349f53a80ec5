"""Look into a mask cache, check it, list or pack images, or make a data set.

python -m data info CACHE          what is in it: counts, failed images, quality percentiles
python -m data verify CACHE        check every shard against its checksum
python -m data verify PACK         the same for a pack of images
python -m data clean CACHE         remove shards that were replaced when it was brought up to date
python -m data pack IMAGES OUT     a million small files into a few large ones, resized
python -m data list IMAGES         how many images a folder or tar holds, and their paths
python -m data synthetic OUT       the embedded data set, with true masks
python -m data challenge IMAGES CACHE OUT    a set like the Backgrounds Challenge's
"""

from __future__ import annotations

from collections.abc import Callable

import tyro

from data.cache.commands import Clean, Info, Verify, clean, info, verify
from data.cli import run
from data.sources.commands import List, Pack, list_images, pack
from data.synthetic.commands import Challenge, Synthetic, challenge, synthetic

COMMANDS: dict[str, tuple[type, Callable[..., int]]] = {
    "info": (Info, info),
    "verify": (Verify, verify),
    "clean": (Clean, clean),
    "list": (List, list_images),
    "pack": (Pack, pack),
    "synthetic": (Synthetic, synthetic),
    "challenge": (Challenge, challenge),
}


def main() -> int:
    arguments = tyro.extras.subcommand_cli_from_dict(
        {name: options for name, (options, _) in COMMANDS.items()},
        prog="python -m data",
        description=__doc__,
    )
    functions = dict(COMMANDS.values())
    return functions[type(arguments)](arguments)


if __name__ == "__main__":
    run(main)
