"""Being told to stop while a step is under way: the signal is noted, the step ends, its state is
saved."""

from __future__ import annotations

import signal
import threading


class Stopping:
    """Within it, SIGINT, SIGTERM and `more` signals are noted in `received` (0: none) instead of
    killing; a second one kills. Outside of the main thread, where Python hears no signals, nothing
    changes.

        with Stopping() as stop:
            while more_to_do and not stop.received:
                ...
    """

    def __init__(self, *more: signal.Signals):
        self.numbers, self.received, self.before = (signal.SIGINT, signal.SIGTERM, *more), 0, {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in self.numbers}
        return self

    def __exit__(self, *_) -> None:
        self._restore()

    def _note(self, number: int, _) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
