"""Work on other processes, here or on a Dask cluster: bounded, in order, a death is survived."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from data.cli import UsageError, note
from data.cluster import Cluster
from data.stopping import shielded, start_worker

Task = TypeVar("Task")
Result = TypeVar("Result")

AHEAD = 4  # tasks a worker that may wait for an earlier, slower one: what bounds the memory
# in every worker: a process a core and a thread a process is the fastest way through many images
THREADS = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)


def bounded_map(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    workers: int,
    *,
    cluster: str | None = None,
    needs: Sequence[str] = (),
    ahead: int = AHEAD,
    rescue: Callable[[Task, Exception], Result] | None = None,
) -> Iterator[Result]:
    """`function(task)` of each task, in the order of the tasks.

    Args:
        function: of a module, so that a worker can import it.
        workers: processes; 0 computes in this one, where a death is the end.
        cluster: address of a dask.distributed scheduler, whose workers are used instead.
        needs: absolute paths that a cluster's workers must see.
        ahead: tasks a worker that are in flight at most.
        rescue: makes the result of a task that was in flight when a worker died.

    Raises:
        UsageError: no cluster at that address, one that cannot do the work or was lost, or a worker
            that died without `rescue`.
    """
    if cluster is None and workers and not _semaphores_work():
        note("/dev/shm is read-only or full, so no worker processes: this one computes alone")
        workers = 0
    if not workers and cluster is None:
        yield from map(function, tasks)
        return
    pool = _Processes(workers) if cluster is None else Cluster(cluster, needs)
    tasks = iter(tasks)
    waiting: deque[tuple[Task, Any]] = deque()
    with closing(pool):
        for task in tasks:
            waiting.append((task, pool.submit(function, task)))
            if len(waiting) < ahead * pool.width:
                continue
            yield from _next(pool, waiting, rescue)
        while waiting:
            yield from _next(pool, waiting, rescue)


def _next(pool: _Processes | Cluster, waiting: deque, rescue: Callable | None) -> Iterator:
    """The result of the first task that waits; of all of them where a worker died."""
    task, future = waiting.popleft()
    try:
        result = future.result()
    except pool.deaths as error:
        if rescue is None:
            raise UsageError(
                f"a worker process died ({type(error).__name__}; out of memory?): free some memory "
                "or lower --workers, and the same command continues"
            ) from error
        lost = [task, *(other for other, _ in waiting)]
        waiting.clear()
        pool.restart()
        for task in lost:
            yield rescue(task, error)
    else:
        yield result


def _semaphores_work() -> bool:
    try:
        multiprocessing.Semaphore()
    except OSError:
        return False
    return True


class _Processes:
    """Processes of this machine. They ignore the signals, and end when the driver does."""

    def __init__(self, workers: int):
        # late: joblib warns at its import where there are no semaphores
        from joblib.externals.loky import ProcessPoolExecutor
        from joblib.externals.loky.process_executor import BrokenProcessPool

        self.deaths = (BrokenProcessPool, MemoryError)
        self.width = workers
        self.start = partial(ProcessPoolExecutor, workers, initializer=start_worker, env=THREADS)
        self.pool: ProcessPoolExecutor | None = None

    def submit(self, function: Callable, task: Any) -> Any:
        with shielded():
            if self.pool is None:
                self.pool = self.start()
            return self.pool.submit(function, task)

    def restart(self) -> None:
        self.close()
        self.pool = None

    def close(self) -> None:
        if self.pool is None:
            return
        hook = threading.excepthook
        threading.excepthook = lambda _: None  # loky's thread may look for tasks that it dropped
        try:
            self.pool.shutdown(wait=True, kill_workers=True)
        finally:
            threading.excepthook = hook


class WorkerDied(Exception):
    """The process of `alone` ended without a result."""


def alone(function: Callable[[Task], Result], task: Task) -> Result:
    """`function(task)` in a process of its own.

    Raises:
        WorkerDied: that process died of it.
        UsageError: no process can be started.
    """
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sending, function, task), daemon=True)
    with shielded():
        process.start()
    sending.close()
    try:
        receiving.recv()
    except EOFError:
        process.join()
        raise UsageError(
            f"worker processes cannot be started (exit code {process.exitcode}): is memory left, "
            f"and does `{Path(sys.executable).name} -c 'import numpy'` run?"
        ) from None
    try:
        return receiving.recv()
    except EOFError:
        raise WorkerDied from None
    finally:
        process.kill()
        process.join()


def _child(sending: Any, function: Callable, task: Any) -> None:
    start_worker()
    sending.send("started")
    sending.send(function(task))
