"""Run a build whose estimator kills its own process (as the kernel's out-of-memory killer would) on
13x13 images.

    python -m tests.preprocess.deadly IMAGES CACHE [FILE]

With FILE it does so only while FILE does not exist.
"""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from preprocess import estimators
from preprocess.pipeline import build
from preprocess.recipe import Recipe


@dataclass(frozen=True)
class Kills(estimators.Estimator):
    once: str

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
    recipe = Deadly("centre", (), 32, once="".join(sys.argv[3:]))
    print(build(sys.argv[1], sys.argv[2], recipe, shard_size=150, workers=2))
