"""How long a call takes."""

import time
from collections.abc import Callable


def timed(function: Callable, *arguments: object) -> tuple[float, float]:
    """Call a function: seconds of CPU time of this process (not of its workers), and by the
    clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    function(*arguments)
    return time.process_time() - cpu, time.perf_counter() - clock
