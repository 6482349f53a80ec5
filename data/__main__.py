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

import tyro

from data import commands
from data.cli import run

COMMANDS = {
    "info": commands.info,
    "verify": commands.verify,
    "clean": commands.clean,
    "list": commands.list_images,
    "pack": commands.pack,
    "synthetic": commands.synthetic,
    "challenge": commands.challenge,
}


def main() -> int | None:
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS, prog="python -m data", description=__doc__
    )


if __name__ == "__main__":
    run(main)
