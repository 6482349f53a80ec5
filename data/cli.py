"""What every command line shares: bad input is one clear line and exit code 2, never a
traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UsageError(ValueError):
    """Bad input: the message says what, which file, and what to do."""


def run(main: Callable[[], int | None]) -> None:
    """Call `main`; exit with what it returns (None is 0), 2 with one line on bad input, 130 on
    Ctrl-C."""
    try:
        code = main() or 0
    except UsageError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        code = 2
    except (
        FileNotFoundError,
        NotADirectoryError,
        IsADirectoryError,
        PermissionError,
        FileExistsError,
    ) as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("stopped; the same command continues", file=sys.stderr)
        code = 130
    sys.exit(code)
