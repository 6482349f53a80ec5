"""The workers of a dask.distributed scheduler as a pool of processes, see data.parallel.

They get the function and the task as bytes, and the project's folder on their path: neither they
nor the scheduler need it on PYTHONPATH. Before the first task each of them is asked whether it runs
the same code and sees the same files.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import cloudpickle

from data.cli import UsageError

ROOT = Path(__file__).resolve().parents[1]
CONTACT = 10  # seconds that a scheduler may take to answer, and to have its first worker
PROBE = 15  # seconds that all workers may take to answer
REFRESH = 5  # seconds after which the workers are counted again, and a lost cluster is noticed


class Cluster:
    """The pool.

    Args:
        address: of the scheduler, as in tcp://host:8786.
        needs: absolute paths that the workers must see.

    Raises:
        UsageError: within 30 s: nobody answers there, or the workers cannot do the work.
    """

    def __init__(self, address: str, needs: Sequence[str] = ()):
        from dask.distributed import Client, KilledWorker

        self.deaths = (KilledWorker, MemoryError)
        self.name = f"--dask {address}"
        self.counted = 0.0
        self.threads = 0
        try:
            self.client = Client(address, timeout=CONTACT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{self.name}: no scheduler answers there ({error}); start one with "
                "`dask scheduler`"
            ) from error
        try:
            self.client.wait_for_workers(1, timeout=CONTACT)
            self._probe(needs)
        except BaseException as error:
            self.close()
            if not isinstance(error, TimeoutError):
                raise
            raise UsageError(
                f"{self.name}: the scheduler has no workers; start some with "
                f"`dask worker {address} --nthreads 1` in the project's folder"
            ) from None

    @property
    def width(self) -> int:
        """Threads of all workers; more may join at any time."""
        if time.monotonic() > self.counted + REFRESH:
            self.threads = sum(self.client.nthreads().values())
            self.counted = time.monotonic()
        return max(1, self.threads)

    def submit(self, function: Callable, task: Any) -> Any:
        content = cloudpickle.dumps((function, task))
        return self.client.submit(_remote(), content, str(ROOT), pure=False)

    def result(self, future: Any) -> Any:
        """What a future gives; an error where the cluster is lost meanwhile, or has had no worker
        for a while."""
        without = 0
        try:
            while without * REFRESH <= PROBE:
                try:
                    return future.result(timeout=REFRESH)
                except TimeoutError:
                    if future.done():
                        raise
                without = 0 if self.client.nthreads() else without + 1
            raise OSError("no workers are left")
        except (OSError, CancelledError) as error:
            raise UsageError(
                f"{self.name}: the cluster was lost ({type(error).__name__}: {error}); the same "
                "command continues once it is there again"
            ) from error
        except ImportError as error:  # a worker that joined later
            raise UsageError(f"{self.name}: a worker {_problem(error)}") from error

    def restart(self) -> None:
        """Dask replaces its workers itself."""

    def close(self) -> None:
        self.client.close()

    def _probe(self, needs: Sequence[str]) -> None:
        """Ask every worker for its Python, its code and the files that it does not see."""
        content = cloudpickle.dumps((_answer, list(needs)))
        answers: dict[str, Any] = {}

        def ask() -> None:
            pythons = self.client.run(platform.python_version, on_error="return")
            here = platform.python_version_tuple()[:2]
            others = {w: text for w, text in pythons.items() if (*text.split(".")[:2],) != here}
            remote = _remote()
            answers.update(others or self.client.run(remote, content, str(ROOT), on_error="return"))

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(PROBE)
        if not answers:
            raise UsageError(f"{self.name}: its workers do not answer; start them again")
        for worker, answer in answers.items():
            if problem := _problem(answer):
                raise UsageError(f"{self.name}: worker {worker} {problem}")


def _remote() -> Callable[[bytes, str], Any]:
    """A function that is sent by value, since it is no attribute of this module."""

    def call(content: bytes, root: str) -> Any:
        import os
        import pickle
        import sys

        for folder in (os.getcwd(), root):
            if folder not in sys.path and os.path.exists(os.path.join(folder, "data/cluster.py")):
                sys.path.insert(0, folder)
        function, task = pickle.loads(content)
        return function(task)

    return call


def _answer(needs: list[str]) -> dict[str, Any]:
    """What a worker says: its code, and the paths that it does not see."""
    return {"code": code_hash(), "unseen": [path for path in needs if not os.path.exists(path)]}


@functools.cache
def code_hash() -> str:
    """Of the project's code as it was when this process asked first, which is what it runs."""
    files = sorted(file for room in ("data", "preprocess") for file in (ROOT / room).rglob("*.py"))
    contents = [file.read_bytes() for file in files]
    return hashlib.sha256(b"\0".join(contents)).hexdigest()


def _problem(answer: Any) -> str | None:
    """What is wrong with a worker, by its answer; None where nothing is."""
    if isinstance(answer, str):
        here = platform.python_version()
        return f"runs Python {answer}, and this is {here}: start it with the project's .venv"
    if isinstance(answer, BaseException):
        return (
            f"cannot run this project's code ({type(answer).__name__}: {answer}); start it in the "
            f"project's folder ({ROOT}) with the project's .venv"
        )
    if answer["code"] != code_hash():
        return f"runs another version of this project; start it again in {ROOT}"
    if answer["unseen"]:
        return (
            f"does not see {answer['unseen'][0]}: images, maps and weights must lie on a file "
            "system that every worker sees under the same path"
        )
    return None
