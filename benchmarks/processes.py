"""Time of a call; time and memory of a command and of all its processes."""

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data.cli import UsageError


def timed(function: Callable, *arguments: object) -> tuple[float, float]:
    """Call a function: seconds of CPU time of this process (not of its workers), and by the
    clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    function(*arguments)
    return time.process_time() - cpu, time.perf_counter() - clock


@dataclass(frozen=True)
class Usage:
    """What a run of a command took.

    Attributes:
        seconds: of the wall clock.
        driver_seconds: of CPU in the first process.
        driver_mb, worker_mb: peak of resident memory of the first process, and of the largest of
            the others.
        waited: seconds that a busy worker was ready to run, but others had the cores; on average.
    """

    seconds: float
    driver_seconds: float
    driver_mb: float
    worker_mb: float
    waited: float


def run_command(*command: str) -> Usage:
    """Run `python ...`; its processes are sampled ten times a second."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    memory: dict[int, float] = {}
    scheduled: dict[int, tuple[float, float]] = {}
    while process.poll() is None:
        for pid in (process.pid, *_descendants(process.pid)):
            memory[pid] = max(memory.get(pid, 0.0), _peak_mb(pid))
            scheduled[pid] = max(scheduled.get(pid, (0.0, 0.0)), _scheduled(pid))
        time.sleep(0.1)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise UsageError(f"{' '.join(command)} failed: {process.stderr.read().decode()[-500:]}")
    driver_mb, (driver_seconds, _) = memory.pop(process.pid), scheduled.pop(process.pid)
    busiest = max((ran for ran, _ in scheduled.values()), default=0.0)
    waits = [wait for ran, wait in scheduled.values() if ran > 0.3 * busiest]  # workers, no helpers
    worker_mb = max(memory.values(), default=0.0)
    return Usage(seconds, driver_seconds, driver_mb, worker_mb, sum(waits) / max(1, len(waits)))


def _descendants(pid: int) -> list[int]:
    children = [int(child) for child in _read(pid, "task/*/children").split()]
    return children + [pid for child in children for pid in _descendants(child)]


def _peak_mb(pid: int) -> float:
    peak = re.search(r"VmHWM:\s+(\d+) kB", _read(pid, "status"))
    return int(peak[1]) / 1024 if peak else 0.0


def _scheduled(pid: int) -> tuple[float, float]:
    """Seconds that a process ran, and that it could have run but other processes had the cores; all
    its threads."""
    numbers = [int(number) / 1e9 for number in _read(pid, "task/*/schedstat").split()]
    return sum(numbers[::3]), sum(numbers[1::3])


def _read(pid: int, pattern: str) -> str:
    """The files under /proc/PID, one after the other; "" where the process has ended."""
    texts = []
    for file in Path(f"/proc/{pid}").glob(pattern):
        with contextlib.suppress(OSError):
            texts.append(file.read_text())
    return "\n".join(texts)
