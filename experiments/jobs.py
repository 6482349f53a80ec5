"""The project's commands, run from a program: one in the open, or several side by side."""

import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from tqdm import tqdm

from data.cli import UsageError
from data.parallel import cpus

STOPPED = "stopped; the same command continues"


def call(module: str, *arguments: str, ends: float = math.inf) -> str:
    """Run one command of the project in the open; the command as text.

    Args:
        ends: `time.monotonic()` at which it is stopped.

    Raises:
        UsageError: it failed.
        TimeoutError: it was stopped, or there was no time to begin.
    """
    command = shlex.join(["python", "-m", module, *arguments])
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError(f"`{command}`: not begun, the time is over")
    process = subprocess.Popen([sys.executable, "-m", module, *arguments])
    try:
        code = process.wait(None if left == math.inf else left)
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"`{command}`: stopped, the time is over") from None
    finally:
        stop([process])
    if code:
        raise UsageError(f"`{command}` failed; see above")
    return command


def stop(processes: Iterable[subprocess.Popen]) -> None:
    """End processes that still run; a training saves first."""
    processes = list(processes)
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


def side_by_side(
    jobs: dict[Path, tuple[str, ...]],
    bar: tqdm,
    progress: Callable[[int], float] = float,
    ends: float = math.inf,
) -> bool:
    """Run commands, as many at a time as there are CPUs, with one thread each; whatever ends this
    function also ends them.

    Each is in a session of its own, so that Ctrl-C reaches it once, from us: a second one would
    stop it before it has saved.

    Args:
        jobs: file for the output -> module and arguments.
        bar: is set every half second to the progress, from the number of finished commands.
        ends: `time.monotonic()` at which those that still run are stopped.

    Returns:
        Whether all have ended by themselves.

    Raises:
        UsageError: a command failed; its error.
    """
    running: list[subprocess.Popen] = []

    def work(log: Path) -> None:
        process = _start(log, jobs[log])
        running.append(process)
        if code := process.wait():
            raise UsageError(f"{_error(log)} (exit code {code}; the whole output is in {log})")

    with ThreadPoolExecutor(cpus()) as pool:
        pending = {pool.submit(work, log) for log in jobs}
        try:
            while pending and time.monotonic() < ends:
                finished, pending = wait(pending, 0.5)
                for future in finished:
                    future.result()
                bar.n = progress(len(jobs) - len(pending))
                bar.refresh()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(future.done() for future in pending):  # one may be about to start
                stop(running)
                time.sleep(0.1)
    return not pending


def _start(log: Path, command: tuple[str, ...]) -> subprocess.Popen:
    log.unlink(missing_ok=True)  # what an earlier try left running may write to the old file
    with open(log, "w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=file,
            stderr=file,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )


def _error(log: Path) -> str:
    """What a command's output says of its failure: the last error, or else the last line."""
    lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
    errors = [line for line in lines if line.startswith("error: ")] or lines
    return errors[-1].removeprefix("error: ")
