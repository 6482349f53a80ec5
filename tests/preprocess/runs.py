"""Runs of the batch stage, and what they leave."""

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.cache.reader import Cache
from preprocess import estimators
from preprocess.estimators import Estimator
from preprocess.pipeline import build
from preprocess.progress import Outcome
from preprocess.recipe import Recipe
from tests import conftest

FAST = ["--estimator", "spectral", "--side", "32", "--shard-size", "20"]


def run(root: Path, folder: Path, **options) -> Outcome:
    recipe, options = Recipe("spectral", (), 32), {"shard_size": 20} | options
    return build(str(root), str(folder), recipe, **options)


def command(*arguments: object) -> list[str]:
    """The same as `run`, as a command line: IMAGES CACHE and more options."""
    program = [sys.executable, "-m", "preprocess", *FAST, "--workers", "1"]
    return [*program, *map(str, arguments)]


def call(*arguments: object, **options) -> subprocess.CompletedProcess:
    return conftest.execute(command(*arguments), **options)


def inline(*arguments: object) -> subprocess.CompletedProcess:
    """`python -m preprocess` without workers, in this process."""
    return conftest.inline("preprocess", *FAST, *arguments, "--workers", "0")


def refusal(name: str, weights: Path, **options: object) -> str:
    """The one line of the error that an estimator's file of weights is."""
    line = conftest.refused(estimators.load, name, weights=str(weights), **options)
    assert weights.name in line and len(line) < 600
    return line


def masks(folder: Path) -> dict[bytes, bytes]:
    cache = Cache(folder)
    return {path: cache.mask(i).tobytes() for i, path in enumerate(cache.paths.tolist())}


def shard(folder: Path, number: int) -> Path:
    (file,) = folder.glob(f"shard-{number:05d}-*.h5")
    return file


def flip(file: Path, bit: int) -> None:
    damaged = bytearray(file.read_bytes())
    damaged[bit // 8] ^= 1 << bit % 8
    file.write_bytes(damaged)


@dataclass(frozen=True)
class Kills(Estimator):
    """Kills its own process on 13x13 images, but where the file `flag`, which it makes, exists."""

    flag: str

    def working(self, image: np.ndarray) -> np.ndarray:
        if image.shape[:2] == (13, 13) and not os.path.exists(self.flag):
            with contextlib.suppress(OSError):
                Path(self.flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return np.ones((9, 9), np.float32)


@dataclass(frozen=True)
class Deadly(Recipe):
    flag: str = ""

    def load(self) -> Estimator:
        return Kills(self.flag)
