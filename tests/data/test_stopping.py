"""Signals: noted once, deadly twice; a block that they end is left once."""

import os
import signal
import sys
import time
import weakref

import pytest

from data.parallel import cpus
from data.stopping import SIGNALS, Stopping, ending
from tests.conftest import start


@pytest.fixture(autouse=True)
def _handlers_come_back(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a job in the background
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_a_second_ctrl_c_kills(number):
    before = [signal.getsignal(n) for n in SIGNALS]
    with pytest.raises(KeyboardInterrupt), Stopping() as stop:
        os.kill(os.getpid(), number)
        assert stop.received == number
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(n) for n in SIGNALS] == before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    with Stopping():
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_block_once_also_from_within_a_callback(number, capsys):
    referred, cleaned = Stopping(), []
    reference = weakref.ref(referred, lambda _: os.kill(os.getpid(), number))
    with pytest.raises(SystemExit) as end, ending("stopped"):
        try:
            del referred  # an error in its callback is printed and dropped
            assert reference() is None
            time.sleep(30)
        finally:
            for second in SIGNALS:
                os.kill(os.getpid(), second)
            cleaned.append(True)
    assert end.value.code == (130 if number == signal.SIGINT else 0)
    assert cleaned and capsys.readouterr().err == "stopped\n"


def test_a_terminal_that_has_gone_is_no_error():
    ours, theirs = os.openpty()
    program = "import time\nfrom data.stopping import ending\nwith ending('stopped'):\n"
    program += "    print('ready', flush=True)\n    time.sleep(60)"
    process = start([sys.executable, "-c", program], stdout=theirs, stderr=theirs)
    os.close(theirs)
    while b"\n" not in os.read(ours, 16):  # its end: the program is not within its print any more
        pass
    os.close(ours)
    process.terminate()
    assert process.wait(30) == 0


def test_several_processes_of_a_machine_share_its_cpus(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 16)
    for processes, share in (("1", 16), ("8", 2), ("32", 1), ("", 16), ("0", 16), ("x", 16)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert cpus() == share
