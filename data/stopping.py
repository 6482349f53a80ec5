"""Signals: the main process notes them, ends its step and saves; workers ignore them.

A job manager sends SIGTERM to one process or to every process of the job, Slurm's SIGUSR1 warns
before a requeue, Ctrl-C sends SIGINT to the whole process group, and a terminal that goes SIGHUP,
which nohup has ignored. In each case the main process alone answers, and workers end when it does.
"""

import atexit
import errno
import os
import signal
import sys
import termios
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import NoReturn, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
# a process a core and a thread a process is the fastest way through many images
THREADS = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)


class Stopping:
    """Within it, the signals are noted in `received` (0: none) instead of killing; a second SIGINT
    kills, a second one of the others does no harm. Outside of the main thread, where Python hears
    no signals, nothing changes.

        with Stopping() as stop:
            while more_to_do and not stop.received:
                ...
    """

    def __init__(self):
        self.received = 0

    def __enter__(self) -> Self:
        self.before = _handled_by(self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        _leave_lost_terminal()
        self.received = self.received or number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, self.before[signal.SIGINT])


def _handled_by(handler: Callable[[int, object], None]) -> dict[int, object]:
    """The handlers that it replaces; none outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # by nohup
    numbers = SIGNALS[:-1] if ignored else SIGNALS
    return {number: signal.signal(number, handler) for number in numbers}


def _leave_lost_terminal() -> None:
    """What is printed on a terminal that has gone goes nowhere from now on, where it would be an
    error of the process that ends well."""
    for descriptor in (1, 2):
        try:
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


@contextmanager
def ending(message: str, forward: Callable[[int], bool] = lambda _: False) -> Iterator[None]:
    """Within it, a signal ends the process without a traceback: the block is left, whose cleaning
    up further signals do not break, `message` is printed, and the exit code is 0, or 130 for
    SIGINT. A `Stopping` inside takes the signals over as long as it lasts.

    Args:
        forward: gets the signal first; true where it has handed it on, and the block goes on.
    """
    received: list[int] = []

    def end(number: int, _: object) -> None:
        _leave_lost_terminal()
        if not forward(number):
            ignore(SIGNALS)
            received.append(number)
            leave(_exit(number))

    before = _handled_by(end)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is end:
                signal.signal(number, handler)
        if received:  # also where the block, an import for instance, caught the exit
            print(message, file=sys.stderr)
            raise _exit(received[0])


def _exit(number: int) -> SystemExit:
    return SystemExit(130 if number == signal.SIGINT else 0)


def leave(error: BaseException) -> NoReturn:
    """Raise an error in a signal's handler; again, a moment later, where the handler ran within a
    callback (a weak reference's, a finaliser), which drops errors."""

    def dropped(unraisable: "sys.UnraisableHookArgs") -> None:
        if unraisable.exc_value is error:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        else:
            sys.__unraisablehook__(unraisable)

    def again(*_: object) -> NoReturn:
        raise error

    sys.unraisablehook = dropped
    signal.signal(signal.SIGALRM, again)
    raise error


def ignore(numbers: Iterable[signal.Signals] = SIGNALS[1:]) -> None:
    """From now on all signals but SIGINT (or `numbers`) do nothing: the process is ending, with its
    exit code decided."""
    if threading.current_thread() is threading.main_thread():
        for number in numbers:
            signal.signal(number, _nothing)
            # the interpreter drops Python's handlers before its own end
            atexit.register(signal.signal, number, signal.SIG_IGN)


def _nothing(*_: object) -> None:
    """As SIG_IGN, which the programs that this process starts would inherit."""


@contextmanager
def shielded() -> Iterator[None]:
    """Processes that are started within are born with the signals blocked: none of them can be
    killed by one between its birth and `start_worker`."""
    # its start, at the first process, would unblock them (CPython before 3.14)
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(*_) -> None:
    """What every worker process runs first: it ignores the signals but for its parent's own
    SIGTERM, ends with its parent, and OpenCV keeps to one thread in it.

    As a DataLoader's `worker_init_fn` it replaces torch's own handler of SIGTERM, which kills.
    """
    import cv2  # late: it brings numpy, which data.one_thread must precede

    cv2.setNumThreads(0)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # as at its birth, where it was shielded
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent says so, or soon after that was killed: it would hold
    memory that the next run needs."""
    while os.getppid() == parent:
        received = signal.sigtimedwait(SIGNALS, 1)
        if received and received.si_signo == signal.SIGTERM and received.si_pid == parent:
            break
    os._exit(1)
