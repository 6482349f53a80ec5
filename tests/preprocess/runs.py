"""Runs of the batch stage, and what they leave."""

import contextlib
import io
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

from data import cli
from data.cache.reader import Cache
from data.stopping import SIGNALS
from preprocess import __main__ as program
from preprocess.pipeline import build
from preprocess.progress import Outcome
from preprocess.recipe import Recipe

TREE = Path(__file__).parents[2]
FAST = Recipe("spectral", (), 32)


def run(root: Path, folder: Path, **options) -> Outcome:
    return build(str(root), str(folder), FAST, **{"shard_size": 20, **options})


def command(root: Path, folder: Path, *options: str) -> list[str]:
    """The same as `run`, as a command line."""
    settings = ["--estimator", "spectral", "--side", "32", "--shard-size", "20", "--workers", "1"]
    return [sys.executable, "-m", "preprocess", str(root), str(folder), *settings, *options]


def call(root: Path, folder: Path, *options: str, **more) -> subprocess.CompletedProcess:
    made = command(root, folder, *options)
    return subprocess.run(made, capture_output=True, text=True, cwd=TREE, **more)


def inline(*arguments: str | Path) -> subprocess.CompletedProcess:
    """`python -m preprocess` without workers, in this process."""
    output, errors = io.StringIO(), io.StringIO()
    argv = ["preprocess", *map(str, arguments), "--workers", "0"]
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


def wait_for(condition, process: subprocess.Popen) -> None:
    """Until it is true or the process has ended, at most a minute."""
    deadline = time.monotonic() + 60
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
