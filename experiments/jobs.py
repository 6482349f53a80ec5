"""The project's commands, run from a program: one in the open, or several side by side."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from tqdm import tqdm

from data.cli import UsageError


def call(module: str, *arguments: str) -> str:
    """Run one command of the project in the open; the command as text. UsageError where it
    fails."""
    command = f"python -m {module} {' '.join(arguments)}"
    if subprocess.run([sys.executable, "-m", module, *arguments]).returncode:
        raise UsageError(f"`{command}` failed; see above")
    return command


def side_by_side(
    jobs: dict[Path, tuple[str, ...]], bar: tqdm, progress: Callable[[int], float] = float
) -> None:
    """Run commands, as many at a time as there are CPUs, with one thread each.

    Each is in a session of its own, so that Ctrl-C reaches it once, from us: a second one would
    stop it before it has saved.

    Args:
        jobs: file for the output -> module and arguments.
        bar: is set every half second to the progress, from the number of finished commands.

    Raises:
        UsageError: a command failed; the last line of its output.
    """
    running: list[subprocess.Popen] = []

    def work(log: Path) -> None:
        with open(log, "w") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", *jobs[log]],
                stdout=file,
                stderr=file,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )
        running.append(process)
        if code := process.wait():
            lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
            last = lines[-1].removeprefix("error: ")
            raise UsageError(f"{last} (exit code {code}; the whole output is in {log})")

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        pending = {pool.submit(work, log) for log in jobs}
        try:
            while pending:
                finished, pending = wait(pending, 0.5)
                for future in finished:
                    future.result()
                bar.n = progress(len(jobs) - len(pending))
                bar.refresh()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.terminate()  # a training saves first
            for process in running:
                process.wait()
            raise
