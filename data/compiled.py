"""Where numba keeps compiled kernels: beside the code, or in a temporary folder where the code
cannot be written (containers, unknown users); there numba finds no place and fails at import."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path


def choose_cache() -> None:
    """Set $NUMBA_CACHE_DIR where it is needed and not set; called before any kernel is defined."""
    beside = Path(__file__).parent / "__pycache__"
    if os.environ.get("NUMBA_CACHE_DIR"):
        return
    if os.access(beside if beside.exists() else beside.parent, os.W_OK):
        return
    folder = os.environ["NUMBA_CACHE_DIR"] = _own_folder()
    if "numba" in sys.modules:  # it has read the variable already
        sys.modules["numba"].config.CACHE_DIR = folder


def _own_folder() -> str:
    """A folder that other users cannot write: numba loads pickles from it."""
    folder = Path(tempfile.gettempdir(), f"dilo-numba-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not others_write:
        return str(folder)
    return tempfile.mkdtemp(prefix="dilo-numba-")
