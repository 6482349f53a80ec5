"""The project's commands, run from a program: one in the open, or several side by side."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data.cli import UsageError


def call(module: str, *arguments: str) -> str:
    """Run one command of the project in the open; the command as text. UsageError where it
    fails."""
    command = f"python -m {module} {' '.join(arguments)}"
    if subprocess.run([sys.executable, "-m", module, *arguments]).returncode:
        raise UsageError(f"`{command}` failed; see above")
    return command


def start(log: Path, module: str, *arguments: str) -> subprocess.Popen:
    """Start a command with one CPU thread, its output to a file: several run side by side.

    In a session of its own, so that Ctrl-C reaches it once, from us: a second one would stop it
    before it has saved.
    """
    with open(log, "w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=file,
            stderr=file,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )


def wait(process: subprocess.Popen, log: Path) -> None:
    """Wait for a command; UsageError with the last line of its output where it fails."""
    if process.wait():
        last = (log.read_text().strip().splitlines() or ["no output"])[-1].removeprefix("error: ")
        raise UsageError(f"{last} (exit code {process.returncode}; the whole output is in {log})")


def side_by_side(jobs: dict[Path, tuple[str, ...]], tick: Callable[[int], None]) -> None:
    """Run commands, as many at a time as there are CPUs.

    Args:
        jobs: file for the output -> module and arguments.
        tick: called every half second with the number of finished commands.
    """
    running: list[subprocess.Popen] = []

    def work(log: Path) -> None:
        running.append(start(log, *jobs[log]))
        wait(running[-1], log)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        futures = [pool.submit(work, log) for log in jobs]
        try:
            while not all(future.done() for future in futures):
                finished = [future for future in futures if future.done()]
                for future in finished:
                    future.result()
                tick(len(finished))
                time.sleep(0.5)
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.terminate()  # a training saves first
            for process in running:
                process.wait()
            raise
    tick(len(jobs))
