"""A signal while a step is under way: noted once, deadly twice, and nothing left behind."""

import os
import signal
import threading

import pytest

from data.stopping import Stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_is_noted_and_the_handlers_come_back(number):
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    with Stopping(signal.SIGUSR1) as stop:
        assert stop.received == 0
        os.kill(os.getpid(), number)
        assert stop.received == number
    assert {n: signal.getsignal(n) for n in before} == before


def test_a_second_one_kills():
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a job in the background is born deaf to it
    try:
        with pytest.raises(KeyboardInterrupt), Stopping():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_error_in_the_loop_gives_the_handlers_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="diverged"), Stopping():
        raise ValueError("diverged")
    assert signal.getsignal(signal.SIGTERM) == before


def test_in_another_thread_it_does_nothing():
    seen = []

    def loop():
        with Stopping() as stop:
            seen.append(stop.received)

    thread = threading.Thread(target=loop)
    thread.start()
    thread.join()
    assert seen == [0]
