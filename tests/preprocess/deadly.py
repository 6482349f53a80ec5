"""Run a build whose estimator kills its own process (as the kernel's out-of-memory killer would) on
13x13 images.

    python tests/preprocess/deadly.py IMAGES CACHE [once FILE]

With `once FILE` it does so only while FILE does not exist.
"""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from preprocess import estimators
from preprocess.build import build
from preprocess.recipe import Recipe


class Kills:
    version, weights, parameters = 1, None, {}

    def __init__(self, once: str):
        self.once = once

    def working(self, image):
        if image.shape[:2] == (13, 13) and not (self.once and os.path.exists(self.once)):
            if self.once:
                Path(self.once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return estimators.load("centre").working(image)


@dataclass(frozen=True)
class Deadly(Recipe):
    once: str = ""

    def load(self):
        return Kills(self.once)


if __name__ == "__main__":
    once = sys.argv[4] if len(sys.argv) > 4 else ""
    print(
        build(
            sys.argv[1], sys.argv[2], Deadly("centre", (), 32, once=once), shard_size=150, workers=2
        )
    )
