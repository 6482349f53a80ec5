"""The project's commands, run from a program: one in the open, or several side by side."""

from __future__ import annotations

import os
import subprocess
import sys
import time
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
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(log, "w") as file:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
        )


def wait(process: subprocess.Popen, log: Path) -> None:
    """Wait for a command; UsageError with the last line of its output where it fails."""
    if process.wait():
        last = (log.read_text().strip().splitlines() or ["no output"])[-1].removeprefix("error: ")
        raise UsageError(f"{last} (exit code {process.returncode}; the whole output is in {log})")


def side_by_side(jobs: list[tuple[Path, tuple[str, ...]]], tick) -> None:
    """Run the commands, as many at a time as there are CPUs; `tick()` is called every half
    second."""
    width = min(len(jobs), len(os.sched_getaffinity(0)))
    running: list[subprocess.Popen] = []

    def one(job: tuple[Path, tuple[str, ...]]) -> None:
        process = start(job[0], *job[1])
        running.append(process)
        wait(process, job[0])

    with ThreadPoolExecutor(width) as pool:
        waiting = [pool.submit(one, job) for job in jobs]
        try:
            while not all(f.done() for f in waiting):
                tick()
                time.sleep(0.5)
                for future in waiting:
                    if future.done():
                        future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.terminate()  # a training saves first
            for process in running:
                process.wait()
            raise
    tick()
