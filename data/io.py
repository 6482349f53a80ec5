"""Files that appear whole or not at all: a temporary one is written, brought to the disk, and given
its name."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from pathlib import Path


def temporary_name(path: Path) -> Path:
    """A name beside `path` that no other process, here or on another machine, uses; it ends in
    .tmp."""
    return path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")


def write_bytes(path: Path, content) -> None:
    """Write a file atomically; on any failure (no space, read-only, ...) nothing of it stays, not
    even under .tmp."""
    temporary = temporary_name(path)
    try:
        temporary.write_bytes(content)
        replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically, UTF-8."""
    write_bytes(path, text.encode())


def replace(temporary: Path, path: Path) -> None:
    """Give a finished temporary file its name so that a crash leaves the old file or the new one,
    never half."""
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
