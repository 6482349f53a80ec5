"""A signal while a step is under way: noted once, deadly twice, and nothing left behind."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest

from data.stopping import Stopping, ending, shielded, start_worker


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_noted_and_the_handlers_come_back(number):
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    with pytest.raises(ValueError, match="diverged"), Stopping(signal.SIGUSR1) as stop:
        assert stop.received == 0
        os.kill(os.getpid(), number)
        assert stop.received == number
        raise ValueError("diverged")
    assert {n: signal.getsignal(n) for n in before} == before


def test_a_second_one_kills():
    # a job in the background is born with it ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), Stopping():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


class Referred:
    """What a weak reference can be to."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_a_callback_ends_all_the_same(number, monkeypatch, capsys):
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    before = {n: signal.getsignal(n) for n in (number, signal.SIGUSR1, signal.SIGALRM)}
    referred = Referred()
    reference = weakref.ref(referred, lambda _: os.kill(os.getpid(), number))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises((SystemExit, KeyboardInterrupt)), ending("stopped"):
            del referred  # an error in its callback is printed and dropped
            assert reference() is None
            time.sleep(30)
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)
    assert "Traceback" not in capsys.readouterr().err


def test_in_another_thread_it_does_nothing():
    seen = []

    def loop():
        with Stopping() as stop:
            seen.append(stop.received)

    thread = threading.Thread(target=loop)
    thread.start()
    thread.join()
    assert seen == [0]


def _wait(started) -> None:
    start_worker()
    started.set()
    threading.Event().wait()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_ends_by_its_parents_signal_alone(method):
    context = multiprocessing.get_context(method)
    started = context.Event()
    worker = context.Process(target=_wait, args=(started,), daemon=True)
    with shielded():
        worker.start()
    assert started.wait(60)
    for name in ("TERM", "INT", "USR1"):
        subprocess.run(["bash", "-c", f"kill -{name} {worker.pid}"], check=True)
    worker.join(1.5)
    assert worker.is_alive()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 1
