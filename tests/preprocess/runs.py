"""Runs of the batch stage, and what they leave."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from data import cli
from data.cache.reader import Cache
from data.stopping import SIGNALS
from preprocess import __main__ as program
from preprocess.estimators import Estimator
from preprocess.pipeline import build
from preprocess.progress import Outcome
from preprocess.recipe import Recipe

TREE = Path(__file__).parents[2]
FAST = ["--estimator", "spectral", "--side", "32", "--shard-size", "20"]


def run(root: Path, folder: Path, **options) -> Outcome:
    recipe = Recipe("spectral", (), 32)
    return build(str(root), str(folder), recipe, **{"shard_size": 20, **options})


def command(*arguments: str | Path) -> list[str]:
    """The same as `run`, as a command line: IMAGES CACHE and more options."""
    program = [sys.executable, "-m", "preprocess", *FAST, "--workers", "1"]
    return [*program, *map(str, arguments)]


def call(*arguments: str | Path, **options) -> subprocess.CompletedProcess:
    settings = {"capture_output": True, "text": True, "cwd": TREE, **options}
    return subprocess.run(command(*arguments), **settings)


def inline(*arguments: str | Path) -> subprocess.CompletedProcess:
    """`python -m preprocess` without workers, in this process."""
    output, errors = io.StringIO(), io.StringIO()
    argv = ["preprocess", *FAST, *map(str, arguments), "--workers", "0"]
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    with (
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            cli.run(program.main)
        except SystemExit as end:
            code = end.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return subprocess.CompletedProcess(argv, code, output.getvalue(), errors.getvalue())


def data(*arguments: str | Path) -> subprocess.CompletedProcess:
    """`python -m data ...`"""
    command = [sys.executable, "-m", "data", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=TREE)


def one_line(done: subprocess.CompletedProcess) -> str:
    """The one line of an error with exit code 2."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    return errors[0]


def content(folder: Path) -> dict[str, bytes]:
    """The files of a cache but for logs and locks."""
    files = [p for p in sorted(folder.iterdir()) if not p.name.startswith((".", "log."))]
    return {p.name: p.read_bytes() for p in files}


def masks(folder: Path) -> dict[bytes, bytes]:
    cache = Cache(folder)
    return {path: cache.mask(i).tobytes() for i, path in enumerate(cache.paths.tolist())}


def shard(folder: Path, number: int) -> Path:
    """The file of a shard that is there once."""
    (file,) = folder.glob(f"shard-{number:05d}-*.h5")
    return file


def flip(file: Path, bit: int) -> None:
    damaged = bytearray(file.read_bytes())
    damaged[bit // 8] ^= 1 << bit % 8
    file.write_bytes(damaged)


@dataclass(frozen=True)
class Kills(Estimator):
    """Kills its own process on 13x13 images, as the kernel's out-of-memory killer would, but for
    where the file `flag`, which it makes, exists."""

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


def wait_for(condition, process: subprocess.Popen) -> None:
    """Until it is true or the process has ended, at most a minute."""
    deadline = time.monotonic() + 60
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
