"""Work on other processes, here or on a Dask cluster: bounded, in order, a death is survived."""

from __future__ import annotations

import multiprocessing
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle

from data.cli import UsageError, note
from data.stopping import shielded, start_worker

Task = TypeVar("Task")
Result = TypeVar("Result")

AHEAD = 4  # tasks a worker that may wait for an earlier, slower one: what bounds the memory
# in every worker: a process a core and a thread a process is the fastest way through many images
THREADS = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)
CONTACT = "20s"  # how long a scheduler may take to answer


def bounded_map(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    workers: int,
    *,
    cluster: str | None = None,
    ahead: int = AHEAD,
    rescue: Callable[[Task, Exception], Result] | None = None,
) -> Iterator[Result]:
    """`function(task)` of each task, in the order of the tasks.

    Args:
        function: of a module, so that a worker can import it.
        workers: processes; 0 computes in this one, where a death is the end.
        cluster: address of a dask.distributed scheduler, whose workers are used instead.
        ahead: tasks a worker that are in flight at most.
        rescue: makes the result of a task that was in flight when a worker died.

    Raises:
        UsageError: no cluster at that address, one that was lost, or a worker that died without
            `rescue`.
    """
    if cluster is None and workers and not _semaphores_work():
        note("/dev/shm is read-only or full, so no worker processes: this one computes alone")
        workers = 0
    if not workers and cluster is None:
        yield from map(function, tasks)
        return
    pool = _Processes(workers) if cluster is None else _Cluster(cluster)
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


def _next(pool: _Processes | _Cluster, waiting: deque, rescue: Callable | None) -> Iterator:
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
        if self.pool is not None:
            self.pool.shutdown(wait=True, kill_workers=True)


class _Cluster:
    """The workers of a Dask scheduler. They get the function and the task as bytes, and the
    project's folder on their path: neither they nor the scheduler need it on PYTHONPATH."""

    def __init__(self, address: str):
        from dask.distributed import Client, KilledWorker

        self.address = address
        self.deaths = (KilledWorker, MemoryError)
        try:
            self.client = Client(address, timeout=CONTACT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--dask {address}: no scheduler answers there ({error}); start one with "
                "`dask scheduler`"
            ) from error
        self.width = sum(self.client.nthreads().values())
        if not self.width:
            self.client.close()
            raise UsageError(
                f"--dask {address}: the scheduler has no workers; start some with "
                f"`dask worker {address} --nthreads 1` in the project's folder"
            )

    def submit(self, function: Callable, task: Any) -> Any:
        root = str(Path(__file__).resolve().parents[1])
        content = cloudpickle.dumps((function, task))
        return _Lost(self.client.submit(_remote(), content, root, pure=False), self.address)

    def restart(self) -> None:
        """Dask replaces its workers itself."""

    def close(self) -> None:
        self.client.close()


def _remote() -> Callable[[bytes, str], Any]:
    """A function that is sent by value, since it is no attribute of this module."""

    def call(content: bytes, root: str) -> Any:
        import pickle
        import sys

        if root not in sys.path:
            sys.path.insert(0, root)
        function, task = pickle.loads(content)
        return function(task)

    return call


class _Lost:
    """A future of the cluster; one line where the cluster is gone."""

    def __init__(self, future: Any, address: str):
        self.future, self.address = future, address

    def result(self) -> Any:
        try:
            return self.future.result()
        except (OSError, CancelledError, TimeoutError) as error:
            raise UsageError(
                f"--dask {self.address}: the cluster was lost ({type(error).__name__}: {error}); "
                "the same command continues once it is there again"
            ) from error


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
