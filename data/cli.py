"""What every command line shares: bad input is one line and exit code 2, never a traceback."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import sys
from collections.abc import Callable
from itertools import pairwise

from tqdm import tqdm

from data import stopping

ADVICE = {
    errno.ENOSPC: "free some space, and the same command continues",
    errno.EDQUOT: "the quota is used up: free some space, and the same command continues",
    errno.EROFS: "a read-only file system: give a folder that can be written",
    errno.EACCES: "give a place that you may read and write",
    errno.EPERM: "give a place that you may read and write",
    errno.EIO: "the disk or its server failed; try the same command again",
    errno.EMFILE: "too many open files: raise `ulimit -n`, or lower --workers",
}


class UsageError(ValueError):
    """Bad input: the message says what, which file, and what to do."""


def require(options: object, *above_zero: str, **least: float) -> None:
    """UsageError where a number among the options, or one of several, cannot be meant.

    Args:
        above_zero: names of options that must be above 0.
        least: name of an option -> its least value. None is fine: a default.
    """
    for name in (*above_zero, *least):
        low, given = least.get(name, 0), getattr(options, name)
        for value in given if isinstance(given, tuple) else (given,):
            if value is None or (low <= value < math.inf and (value or name in least)):
                continue
            bound = f"at least {low}" if name in least else "above 0"
            finite = " and finite" if isinstance(value, float) else ""
            raise UsageError(f"--{name.replace('_', '-')} {value}: must be {bound}{finite}")


def run(main: Callable[[], int | None]) -> None:
    """Call `main` and exit: with what it returns (None is 0), with 2 and one line on bad input or a
    failing disk, with 130 on Ctrl-C. A SIGTERM after that changes nothing."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):  # a terminal that cannot show a name
            stream.reconfigure(errors="backslashreplace")
    try:
        _require_no_empty(sys.argv)
        code = main() or 0
        sys.stdout.flush()
    except UsageError as error:
        code = fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains once more at its end
        code = fail("standard output: closed before everything was printed; results are on disk")
    except OSError as error:
        code = fail(describe(error))
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        code = 130
    finally:
        stopping.ignore()
    sys.exit(code)


def _require_no_empty(arguments: list[str]) -> None:
    """UsageError where one is empty, as of a shell's variable that is not set: as a path it would
    be the current folder."""
    for before, argument in pairwise(arguments):
        if re.fullmatch("(--[a-z0-9_-]+=)?", argument):
            option = argument.rstrip("=") or before
            where = option if option.startswith("--") else "an argument"
            raise UsageError(f"{where}: is empty; name it, or leave the option out")


def fail(message: str) -> int:
    """Print an error as one line on stderr; the exit code 2."""
    with contextlib.suppress(OSError):
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def note(message: str) -> None:
    """Print one line on stderr that needs no action; of several processes of a job, the first."""
    if os.environ.get("RANK", "0") == "0":
        with contextlib.suppress(OSError):
            tqdm.write(f"note: {' '.join(message.split())}", file=sys.stderr)  # above a bar


def describe(error: OSError) -> str:
    """An OSError in one line: the file, what happened, what to do.

    HDF5 and other libraries put file and number into the text alone.
    """
    text = " ".join(str(error.strerror or error).split())
    number = re.search(r"errno = (\d+)", text)
    code = error.errno or (int(number[1]) if number else None)
    named = re.search(r"name = '([^']+)'", text)
    file = error.filename if isinstance(error.filename, (str, bytes, os.PathLike)) else None
    if file is None and named:
        file = named[1]
    where = f"{os.fsdecode(file)}: " if file else ""
    advice = ADVICE.get(code)
    return f"{where}{os.strerror(code) if number else text}" + (f"; {advice}" if advice else "")
