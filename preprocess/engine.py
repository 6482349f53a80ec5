"""Blocks of images to workers, here or on a cluster, and their rows back in order; a worker that
dies is survived.

`joblib` runs the blocks. When a worker dies, the blocks in flight are computed again, each alone in
a process of its own; one that kills that process too is halved until the image is found that does
it, which gets the status "crashed".
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import partial

import numpy as np
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky import ProcessPoolExecutor, get_reusable_executor
from joblib.externals.loky.process_executor import BrokenProcessPool

from data.cache.shard import COLUMNS
from data.cli import UsageError
from data.sources.images import Images
from preprocess.networks.batches import task as work_of
from preprocess.recipe import Recipe, crashed_row

AHEAD = (
    4  # blocks a worker that may wait for an earlier, slower one: what bounds the driver's memory
)

Rows = dict[str, np.ndarray]
Event = Callable[..., None]


def compute(
    tasks: Iterable[Images], recipe: Recipe, workers: int, cluster: str | None, event: Event
) -> Iterator[Rows]:
    """The rows of each block of `tasks`, in their order; for a network on a device of the driver's,
    prepared blocks.

    Args:
        workers: processes; 0 computes in this one, where a crash is the end.
        cluster: address of a dask.distributed scheduler, whose workers are used instead.
        event: called with what happened: event("worker died", blocks=...) and event("crashed",
            path=...).

    Raises:
        UsageError: no cluster at that address, or processes that cannot even be started.
    """
    if not workers and cluster is None:
        yield from (work_of(recipe)(task, recipe) for task in tasks)
        return
    tasks = iter(tasks)
    waiting: deque[Images] = deque()  # given out, not yet received
    with _backend(workers, cluster, ahead=2 if recipe.on_device else None) as (
        parallel,
        width,
        deaths,
    ):
        limit = AHEAD * width + 16
        exhausted = False

        def feed() -> Iterator:
            nonlocal exhausted
            while (
                len(waiting) < limit
            ):  # else joblib runs dry, and is started again once the slow block is there
                task = next(tasks, None)
                if task is None:
                    exhausted = True
                    return
                waiting.append(task)
                yield delayed(work_of(recipe))(task, recipe)

        while not exhausted or waiting:
            try:
                for rows in parallel()(feed()):
                    if not np.array_equal(
                        rows["path"], waiting[0].paths
                    ):  # never a mask in another image's row
                        raise RuntimeError(f"the rows of {_name(waiting[0])} came out of order")
                    waiting.popleft()
                    yield rows
            except deaths as error:
                event(
                    "worker died",
                    error=type(error).__name__,
                    blocks=len(waiting),
                    first=_name(waiting[0]) if waiting else "",
                )
                while waiting:
                    rows = compute_alone(waiting[0], recipe, event)
                    waiting.popleft()
                    yield rows


@contextmanager
def _backend(
    workers: int, cluster: str | None, patience: str = "20s", ahead: int | None = None
) -> Iterator[tuple[Callable[[], Callable], int, tuple]]:
    """joblib on this machine's processes or on Dask's: makes a runner, the number of workers, what
    it raises when one dies. A runner is used once: after a failure joblib's would give results of
    the round before.

    Args:
        ahead: blocks a worker that may be computed before the driver takes them, where they are
            large (an image as the network sees it is 20 times a mask); joblib itself stops and
            starts again whenever the driver is slower.
    """
    options = {
        "return_as": "generator",
        "batch_size": 1,
        "pre_dispatch": "2 * n_jobs",
        "max_nbytes": None,
    }
    if cluster is None:
        deaths = BrokenProcessPool, MemoryError
        if workers == 1 or ahead is not None:
            executors: list[ProcessPoolExecutor] = []
            try:
                yield lambda: partial(_steady, executors, workers, ahead or 3), workers, deaths
            finally:
                for executor in executors:
                    executor.shutdown(wait=True, kill_workers=True)
            return
        try:
            yield (
                partial(Parallel, workers, backend="loky", initializer=_start_worker, **options),
                workers,
                deaths,
            )
        except BaseException:  # Ctrl-C, no space, ...: nobody waits for what is in flight
            get_reusable_executor(max_workers=workers).shutdown(wait=True, kill_workers=True)
            raise
        return
    from dask.distributed import Client, KilledWorker

    try:
        client = Client(cluster, timeout=patience, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--dask {cluster}: no scheduler answers there ({error}); start one with `dask scheduler`"
        ) from error
    with client:
        width = sum(client.nthreads().values())
        if not width:
            raise UsageError(
                f"--dask {cluster}: the scheduler has no workers; start some with `dask worker {cluster} "
                "--nthreads 1` in the project's folder"
            )
        try:
            with parallel_config(backend="dask", client=client):
                yield partial(Parallel, width, **options), width, (KilledWorker, MemoryError)
        except (OSError, CancelledError, TimeoutError) as error:
            raise UsageError(
                f"--dask {cluster}: the cluster was lost ({type(error).__name__}: {error}); the same "
                "command continues once it is there again"
            ) from error


def _steady(
    executors: list[ProcessPoolExecutor], workers: int, ahead: int, calls: Iterable
) -> Iterator[Rows]:
    """At most `ahead` calls a worker in flight. Also for one worker, for which joblib computes in
    the driver itself: an image that crashes would end the run then. The processes are added to
        `executors`, for the caller to end."""
    executor = ProcessPoolExecutor(workers, initializer=_start_worker)
    executors.append(executor)
    pending = deque()
    for function, arguments, options in calls:
        pending.append(executor.submit(function, *arguments, **options))
        if len(pending) >= ahead * workers:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to answer
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(driver: int) -> None:
    """End this process soon after the driver was killed: it would hold memory that the next run
    needs."""
    while os.getppid() == driver:
        time.sleep(1)
    os._exit(1)


def compute_alone(images: Images, recipe: Recipe, event: Event) -> Rows:
    """The rows of a block in a process of its own; where that dies, of its halves, down to the
    image that does it."""
    rows = _in_own_process(images, recipe)
    if rows is not None:
        return rows
    if len(images) == 1:
        event("crashed", path=_name(images))
        return crashed_row(images, recipe)
    middle = len(images) // 2
    halves = [
        compute_alone(images.take(part), recipe, event)
        for part in (slice(middle), slice(middle, None))
    ]
    rows = {column: np.concatenate([half[column] for half in halves]) for column in COLUMNS}
    if any("prepared" in half for half in halves):
        rows["prepared"] = [
            one for half in halves for one in half.get("prepared", [None] * len(half["path"]))
        ]
    return rows


def _in_own_process(images: Images, recipe: Recipe) -> Rows | None:
    """The block's work in a fresh process; None where it died of it."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sending, images, recipe), daemon=True)
    process.start()
    sending.close()
    try:
        receiving.recv()
    except EOFError:
        raise UsageError(
            f"worker processes cannot be started (exit code {process.exitcode}): is memory left, and can "
            "`python -m preprocess --help` run?"
        ) from None
    try:
        return receiving.recv()
    except EOFError:
        return None
    finally:
        process.kill()
        process.join()


def _child(sending, images: Images, recipe: Recipe) -> None:
    _start_worker()
    sending.send("started")
    sending.send(work_of(recipe)(images, recipe))


def _name(images: Images) -> str:
    return images.paths[0].decode(errors="backslashreplace")
