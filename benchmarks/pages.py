"""A cold page cache for benchmarks of reading."""

from __future__ import annotations

import os
from pathlib import Path


def forget(files: list[Path]) -> None:
    """Drop the pages of files from the page cache; those of a map that is still open stay, and so
    do directory entries and inodes."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
