"""numba's compiler for every kernel of the project, wherever it runs.

numba keeps compiled kernels beside their source or in the user's cache folder. Where neither can be
written (containers with another user and no home), it fails at import: then they go to a temporary
folder.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

PROJECT = str(Path(__file__).resolve().parents[1])


def _temporary_folder() -> str:
    """The user's own folder below the system's temporary one, which the next run finds again."""
    folder = os.path.join(tempfile.gettempdir(), f"dilo-kernels-{os.getuid()}")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    status = os.lstat(folder)
    if status.st_uid != os.getuid() or status.st_mode & 0o022:  # somebody else's
        folder = tempfile.mkdtemp(prefix="dilo-kernels-")
    return folder


def _can_be_written(folder: str) -> bool:
    if not os.path.isabs(folder):  # an unknown user has no home
        return False
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


USERS = os.path.expanduser(os.environ.get("XDG_CACHE_HOME", "~/.cache"))  # as numba finds it
if not any(map(_can_be_written, (PROJECT, USERS))):
    os.environ.setdefault("NUMBA_CACHE_DIR", _temporary_folder())

from numba import njit, types  # noqa: E402 - numba reads the variable when it is imported

__all__ = ["njit", "types"]
