"""Work on other processes, here or on a Dask cluster: bounded, in order, a death is survived."""

import multiprocessing
import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from data.cli import UsageError, note
from data.cluster import Cluster
from data.stopping import THREADS, shielded, start_worker

Task = TypeVar("Task")
Result = TypeVar("Result")

AHEAD = 4  # tasks a worker that may wait for an earlier, slower one: what bounds the memory


def cpus() -> int:
    """The CPUs that this process may use, by its affinity and its container's quota: its share of
    them where a launcher has started several on this machine."""
    with warnings.catch_warnings(action="ignore"):  # joblib warns where there are no semaphores
        import joblib
    return max(1, joblib.cpu_count() // local_processes())


def local_processes() -> int:
    """How many processes a launcher has started on this machine; 1 where none says so."""
    value = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(1, int(value)) if value.isdecimal() else 1


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
    waiting: deque[tuple[Task, Any]] = deque()
    with closing(pool):
        for task in tasks:
            waiting.append((task, pool.submit(function, task)))
            if len(waiting) >= ahead * pool.width:
                yield from _next(pool, waiting, rescue)
        while waiting:
            yield from _next(pool, waiting, rescue)


def _next(pool: Any, waiting: deque, rescue: Callable | None) -> Iterator:
    """The result of the first task that waits; of all of them where a worker died."""
    task, future = waiting.popleft()
    try:
        result = pool.result(future)
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
    """Processes of this machine, started at the first task. They ignore the signals, and end when
    the driver does."""

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
            self.pool = self.pool or self.start()
            return self.pool.submit(function, task)

    def result(self, future: Any) -> Any:
        return future.result()

    def close(self) -> None:
        if self.pool is None:
            return
        hook = threading.excepthook
        threading.excepthook = lambda _: None  # loky's thread may look for tasks that it dropped
        try:
            self.pool.shutdown(wait=True, kill_workers=True)
        finally:
            threading.excepthook = hook
            self.pool = None

    restart = close  # another one is started at the next task


class WorkerDied(Exception):
    """The process of `alone` ended without a result."""


def alone(function: Callable[[Task], Result], task: Task) -> Result:
    """`function(task)` in a process of its own.

    Raises:
        WorkerDied: that process died of it, or has not the memory.
        UsageError: no process can be started.
    """
    with closing(_Processes(1)) as pool:
        try:
            pool.submit(abs, 1).result()
        except pool.deaths:
            raise UsageError(
                "worker processes cannot be started: is memory left, and does "
                f"`{Path(sys.executable).name} -c 'import numpy'` run?"
            ) from None
        try:
            return pool.submit(function, task).result()
        except pool.deaths:
            raise WorkerDied from None
