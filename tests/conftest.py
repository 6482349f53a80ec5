"""The team's real data, a tiny image folder, commands and what they leave."""

import contextlib
import importlib
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

# two test processes share the processors: threads that wait for each other cost minutes
os.environ.setdefault("OMP_NUM_THREADS", "1")

# isort: split
import cv2
import numpy as np
import pytest

from data import cli
from data.stopping import SIGNALS

TREE = Path(__file__).parents[1]
BARE = {"HOME": "/nonexistent", "LC_ALL": "C", "PYTHONUTF8": "0"}  # no home, an ASCII terminal


def scene(seed: int, side: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc on noise: (side, side, 3) uint8 RGB and its true mask, (side, side) uint8."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(rng.integers(40, 110, 3), 12, (side, side, 3))
    image = np.clip(noise, 0, 255).astype(np.uint8)
    mask = np.zeros((side, side), np.uint8)
    centre = rng.integers(side // 3, side - side // 3, 2).tolist()
    cv2.circle(mask, centre, int(rng.integers(side // 6, side // 4)), 255, -1)
    image[mask > 0] = rng.integers(150, 255, 3)
    return image, mask


def call(main: Callable[[], object], *words: object) -> None:
    """A program's main with this command line, in this process."""
    with mock.patch.object(sys, "argv", ["x", *map(str, words)]):
        main()


def inline(program: str, *arguments: object) -> subprocess.CompletedProcess:
    """`python -m PROGRAM ...` in this process."""
    output, errors = io.StringIO(), io.StringIO()
    main = importlib.import_module(f"{program}.__main__").main
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as end,
    ):
        try:
            call(lambda: cli.run(main), *arguments)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    code = end.value.code
    return subprocess.CompletedProcess(program, code, output.getvalue(), errors.getvalue())


def data(*arguments: object) -> subprocess.CompletedProcess:
    return inline("data", *arguments)


def one_line(done: subprocess.CompletedProcess) -> str:
    """The one line of an error with exit code 2."""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(errors) == 1 and "Traceback" not in done.stderr, done.stderr
    return errors[0]


def execute(command: list, **options: object) -> subprocess.CompletedProcess:
    options = {"capture_output": True, "text": True, "timeout": 600, "cwd": TREE} | options
    return subprocess.run([*map(str, command)], **options)


def refused(function: Callable, *arguments: object, **options: object) -> str:
    """The one line of the UsageError that a call ends with."""
    with pytest.raises(cli.UsageError) as error:
        function(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def start(command: list, **options: object) -> subprocess.Popen:
    """A command in a process group of its own, as a job manager starts it."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": TREE}
    return subprocess.Popen([*map(str, command)], **pipes | options, start_new_session=True)


def children(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            found += map(int, task.read_text().split())
    return found


def wait_for(condition: Callable[[], object], process: subprocess.Popen | None = None) -> None:
    """Until it is true or the process has ended."""
    deadline = time.monotonic() + 120
    while not condition() and (process is None or process.poll() is None):
        assert time.monotonic() < deadline
        time.sleep(0.002)


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder but for logs and locks."""
    files = [path for path in folder.rglob("*") if not path.name.startswith((".", "log."))]
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(files) if p.is_file()}


def mounted(command: list, *mounts: str, **more: str) -> subprocess.CompletedProcess:
    """Run a command after mounts that it alone sees; skip where that cannot be done."""
    unshare, mounts = ["unshare", "--mount", "bash", "-ec"], "\n".join(mounts)
    if not shutil.which("unshare") or execute([*unshare, mounts]).returncode:
        pytest.skip("this machine does not let us mount")
    options = {"env": os.environ | more}
    return execute([*unshare, f'{mounts}\nexec "$@"', "bash", *command], **options)


def read_only(folder: Path, *command: str, **more: str) -> subprocess.CompletedProcess:
    """Run a command in a folder that is mounted read-only for it alone."""
    here = shlex.quote(str(folder))
    mounts = f"mount --bind {here} {here}", f"mount -o remount,ro,bind {here}", f"cd {here}"
    return mounted(command, *mounts, **more)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 PNG scenes in two class folders, and their true masks in the same layout under masks/."""
    root = tmp_path_factory.mktemp("tiny")
    for i in range(80):
        image, mask = scene(i)
        for folder, picture in (("train", image[..., ::-1]), ("masks", mask)):
            path = root / folder / f"class{i % 2}" / f"{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), picture)
    return root


@pytest.fixture(scope="session")
def truth_cache(images: Path) -> Path:
    """A cache of the true masks of `images`, 30 a shard."""
    from preprocess.pipeline import build
    from preprocess.recipe import Recipe

    folder = images / "cache-truth"
    recipe = Recipe("files", (), 32, str(images / "masks"))
    build(str(images / "train"), str(folder), recipe, shard_size=30)
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The team's real data (DILO_SHARED, default ../shared); the test is skipped without it."""
    root = Path(os.environ.get("DILO_SHARED", Path(__file__).parents[2] / "shared"))
    if not (root / "data").is_dir():
        pytest.skip(f"no real data at {root} (set DILO_SHARED)")
    return root / "data"
