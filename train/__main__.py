"""Stage 2: contrastive pretraining, with DiLo copy-paste by the masks of a cache.

    python -m train /data/imagenet/train --masks caches/imagenet-rbd --out runs/moco_v2-rbd
    python -m train /data/imagenet/train --masks none --out runs/moco_v2          # the baseline

The same command continues a stopped run; Ctrl-C, SIGTERM and SIGHUP save first.
"""

import sys

from data.cli import run
from data.stopping import Stopping


def main() -> None:
    with Stopping() as stop:
        # torch takes seconds to import, in which a signal may come
        from train.command import parse
        from train.loop import train

        train(parse(sys.argv[1:], __doc__), stop)


if __name__ == "__main__":
    run(main)
