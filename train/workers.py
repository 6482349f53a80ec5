"""What every loader of training and evaluation shares: how workers start, what they hand over, and
how much shared memory that takes."""

import contextlib
import functools
import gc
import itertools
import os
import pickle
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator
from multiprocessing.reduction import ForkingPickler
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from data import stopping
from data.cli import UsageError, note
from data.parallel import cpus, local_processes

Batch = TypeVar("Batch")
AHEAD = 4  # batches that each worker prepares ahead
SHARED_MEMORY = "/dev/shm"
# bytes of a folder in which a socket of multiprocessing can lie: its path has at most 107
LONGEST_TEMPORARY = 107 - len("/pymp-12345678/listener-12345678")
note_once = functools.cache(note)  # a command may make many loaders
ADVICE = "give the container more (docker run --shm-size 8g), or use --workers 0"


def start_worker(_: int) -> None:
    """A DataLoader's worker_init_fn: one thread, ignores the signals, ends with its parent."""
    gc.freeze()  # else a collection writes to all objects of the main process, and so copies them
    stopping.start_worker()
    torch.set_num_threads(1)
    if len(os.fsencode(tempfile.gettempdir())) > LONGEST_TEMPORARY:
        tempfile.tempdir = "/tmp"


class HandedOver(Generic[Batch]):
    """A batch on its way from a worker, which has put its tensors into shared memory here: an error
    of that reaches the main process, where the thread that would do it otherwise drops the batch
    and lets the main process wait for ever."""

    def __init__(self, batch: Batch):
        self.content = bytes(ForkingPickler.dumps(batch))

    def open(self) -> Batch:
        """The batch; once, since the worker then lets go of it."""
        return pickle.loads(self.content)

    def pin_memory(self) -> Batch:
        """The batch in pinned memory, as torch's thread for that asks for it."""
        return _pinned(self.open())


def hand_over(batch: Batch) -> Batch | HandedOver[Batch]:
    """A DataLoader's collate_fn: the data set makes whole batches itself."""
    return batch if get_worker_info() is None else HandedOver(batch)


def _pinned(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.pin_memory()
    if isinstance(value, dict):
        return {key: _pinned(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_pinned, value))
    return value


class LoaderError(UsageError):
    """Workers that fail again and again."""


class Loader(DataLoader):
    """A loader whose data set gives whole batches.

    Its workers are born with the signals blocked. One that dies, or cannot hand its batch over,
    costs a restart at the same batch, which depends on nothing else.

    Args:
        order: lists of items, the same whenever it is iterated over.
        workers: processes; 0 makes batches in this one.
        ahead: batches that each worker prepares ahead.

    Raises:
        LoaderError: in iterating, where a batch fails twice.
        UsageError: in iterating, what the data set raises, in a worker too.
    """

    def __init__(
        self,
        images: Dataset,
        order: Iterable[list],
        workers: int,
        pin_memory: bool = False,
        ahead: int = AHEAD,
    ):
        self.rest = _Rest(order)
        super().__init__(
            images,
            batch_sampler=self.rest,
            num_workers=workers,
            collate_fn=hand_over,
            worker_init_fn=start_worker,
            pin_memory=pin_memory,
            prefetch_factor=ahead if workers else None,
        )

    def __iter__(self) -> Iterator:
        done, failed_at = 0, -1
        while True:
            batches = self._begin(done)
            try:
                for batch in batches:
                    yield batch.open() if isinstance(batch, HandedOver) else batch
                    done += 1
                return
            except UsageError as error:  # a worker's comes with its traceback before the message
                message = str(error).rpartition(f"{type(error).__name__}: ")[2]
                raise type(error)(message.strip()) from None
            except (RuntimeError, OSError, EOFError, MemoryError) as error:  # of a worker
                if not self.num_workers:
                    raise
                reason = str(error).strip() or type(error).__name__
                why = f"at batch {done} ({reason.splitlines()[-1]})"
                # the error holds the workers through its frames; they end before others are born
                error.__traceback__ = error.__context__ = error.__cause__ = None
            del batches
            if failed_at == done:
                raise LoaderError(
                    f"loader workers failed twice {why}: free some memory or lower --workers; the "
                    "same command continues"
                )
            failed_at = done
            self.prefetch_factor = 1  # less memory
            note(f"a loader worker failed {why}; they are started again")

    def _begin(self, done: int) -> Iterator:
        """Start the workers; the death of one is an error of the next batch then, and not an
        exception anywhere in the main thread."""
        self.rest.first = done
        if self.num_workers:
            check_shared_memory()
        before = signal.getsignal(signal.SIGCHLD)
        with stopping.shielded():
            batches = super().__iter__()
        with contextlib.suppress(ValueError):  # outside of the main thread torch sets no handler
            signal.signal(signal.SIGCHLD, before)
        return batches


class _Rest(Sampler):
    """An order of batches from number `first` on."""

    def __init__(self, order: Iterable[list]):
        self.order, self.first = order, 0

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[list]:
        return itertools.islice(self.order, self.first, None)


def check_shared_memory() -> None:
    """UsageError where workers cannot hand over their batches."""
    if os.path.exists(SHARED_MEMORY) and not os.access(SHARED_MEMORY, os.W_OK):
        raise UsageError(
            f"{SHARED_MEMORY}: cannot be written, and workers hand their batches over in it; "
            f"{ADVICE}"
        )


def _free_memory() -> int:
    """Bytes of shared memory that this process may fill."""
    if not os.path.exists(SHARED_MEMORY):  # other systems hand over otherwise
        return sys.maxsize
    if not os.access(SHARED_MEMORY, os.W_OK):
        return 0
    status = os.statvfs(SHARED_MEMORY)
    return status.f_bavail * status.f_frsize // local_processes()


def fit_workers(size: int, workers: int | None) -> tuple[int, int]:
    """How many workers make batches of `size` bytes, and how many batches each prepares ahead:
    AHEAD, or what fits into the shared memory that they are handed over in.

    Args:
        workers: None: this process's share of the CPUs, or as many as one batch each fits for.

    Raises:
        UsageError: for that number not one batch each fits, or the shared memory cannot be written.
    """
    free = _free_memory()
    room = free // size - 2  # one is in use, and one on its way
    if workers is None:
        workers = min(cpus(), max(0, room))
        if workers < cpus():
            note_once(f"{SHARED_MEMORY} has room for {workers} of {cpus()} loader workers")
            return workers, 1
    if not workers:
        return workers, AHEAD
    check_shared_memory()
    fits = room // workers
    if fits < 1:
        raise UsageError(
            f"{SHARED_MEMORY}: {free / 1e6:.0f} MB are free, too few for {workers + 2} batches of "
            f"{size / 1e6:.0f} MB, one a worker and two in use; {ADVICE} or fewer, or a smaller "
            "--batch"
        )
    if fits < AHEAD:
        prepared = f"each worker prepares {fits} of {AHEAD} batches ahead"
        note_once(f"{SHARED_MEMORY} is small: {prepared}")
    return workers, min(AHEAD, fits)
