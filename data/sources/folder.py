"""Images that are files of a folder."""

import contextlib
import os
import stat

import numpy as np

from data.io import without_waiting
from data.sources.base import LARGEST, Images
from data.sources.decode import ImageError


class Folder(Images):
    """Images of a folder, at any depth."""

    def read(self, row: int) -> bytes:
        return read_bytes(self.root, self.paths[row])

    def stat(self) -> np.ndarray:
        sources = np.zeros((len(self), 2), "<i8")
        prefix = os.fsencode(self.root) + b"/"
        for i, path in enumerate(self.paths):
            with contextlib.suppress(OSError):
                status = os.stat(prefix + path)
                sources[i] = status.st_size, status.st_mtime_ns
        return sources


def read_bytes(root: str | os.PathLike, path: bytes) -> bytes:
    """The bytes of a file in a folder; ImageError("missing") where it cannot be read, "too_large"
    past 1 GiB."""
    name = os.fsdecode(path)
    try:
        with open(os.path.join(os.fsencode(root), path), "rb", opener=without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("missing", f"{name}: no ordinary file")
            if status.st_size > LARGEST:
                raise ImageError("too_large", f"{name}: more than {LARGEST} bytes")
            return file.read()
    except OSError as error:
        raise ImageError("missing", f"{name}: {error.strerror}") from error
