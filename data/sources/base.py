"""Images by row: what every stage sees of a folder, a tar or a pack."""

from __future__ import annotations

import os
import resource
import stat
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

import numpy as np

from data.io import stat_files, without_waiting
from data.sources.decode import ImageError
from data.sources.lists import read_list, require_listed

MISSING = -1  # place of an image that is not there
LARGEST = 1 << 30  # bytes of an image file: more is no photograph, and would fill the memory
# that a process keeps open, of those that it may
OPEN_FILES = max(64, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)


@dataclass
class Images(ABC):
    """Images by row. A part of them (`take`) is small and picklable: what a worker is given.

    Attributes:
        root: the folder, or the tar file.
        paths: (N,) fixed-length bytes, sorted, UTF-8 with forward slashes; the same from a folder,
            from its tar and from its pack.
        altered: how the files differ from those that were listed once, in words; empty where they
            do not.
    """

    root: str
    paths: np.ndarray
    altered = ""

    def __len__(self) -> int:
        return len(self.paths)

    @abstractmethod
    def read(self, row: int) -> bytes:
        """The image file's bytes. ImageError("missing") where it cannot be read."""

    @abstractmethod
    def stat(self) -> np.ndarray:
        """(N, 2) int64: byte length and mtime in nanoseconds of each image; zeros where it is not
        there."""

    def take(self, rows: slice | np.ndarray) -> Images:
        """The images of `rows` (a slice or an index array)."""
        return replace(self, paths=self.paths[rows])

    def choose(self, paths: np.ndarray) -> Images:
        """The images of (M,) sorted `paths`, which need not be there."""
        return replace(self, paths=paths)

    def without(self, listed: str | os.PathLike) -> Images:
        """The images that the text file `listed` does not name.

        Raises:
            UsageError: it names none of them, or all of them.
        """
        names = read_list(listed, self.root, "--exclude")
        require_listed(names, np.isin(names, self.paths), self.root, listed, "--exclude")
        return self.take(~np.isin(self.paths, names))

    def name(self, row: int) -> str:
        return os.fsdecode(self.paths[row])


class Folder(Images):
    """Images of a folder, at any depth."""

    def read(self, row: int) -> bytes:
        return read_bytes(self.root, self.paths[row])

    def stat(self) -> np.ndarray:
        return stat_files(os.fsencode(self.root) + b"/", self.paths)


@dataclass
class Spanned(Images):
    """Images that are parts of larger files.

    Attributes:
        spans: (N, 3 or more) int64: place in the file, or MISSING; byte length; mtime (ns).
    """

    spans: np.ndarray
    _open: dict = field(default_factory=dict, init=False, repr=False)

    @abstractmethod
    def file(self, row: int) -> str:
        """The file that the row's image is part of."""

    def take(self, rows: slice | np.ndarray) -> Spanned:
        return replace(self, paths=self.paths[rows], spans=self.spans[rows])

    def choose(self, paths: np.ndarray) -> Spanned:
        rows = np.minimum(np.searchsorted(self.paths, paths), len(self.paths) - 1)
        spans = self.spans[rows]
        absent = self.paths[rows] != paths
        spans[absent] = 0
        spans[absent, 0] = MISSING
        return replace(self, paths=paths, spans=spans)

    def stat(self) -> np.ndarray:
        return np.ascontiguousarray(self.spans[:, 1:3])

    def read(self, row: int) -> bytes:
        place, length = self.spans[row, :2].tolist()
        if place == MISSING:
            raise ImageError(
                "missing", f"{self.name(row)}: is not in {self.root}, or no usable file"
            )
        if length > LARGEST:
            raise ImageError("too_large", f"{self.name(row)}: {length} bytes")
        file = self.file(row)
        try:
            source = self._open.get(file)
            if source is None:
                source = open(file, "rb", buffering=0)  # noqa: SIM115 - kept open
                if len(self._open) >= OPEN_FILES:
                    self._open.pop(next(iter(self._open)), None)  # closed when nobody reads it
                self._open[file] = source
            # no shared position: safe in threads and after a fork
            content = os.pread(source.fileno(), length, place)
        except (OSError, ValueError) as error:
            raise ImageError("missing", f"{self.name(row)}: {error}") from error
        if len(content) < length:
            raise ImageError("missing", f"{self.name(row)}: lies past the end of {file}")
        return content

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open": {}}  # no descriptors go to a worker


def read_bytes(root: str | os.PathLike, path: bytes) -> bytes:
    """The bytes of a file in a folder; ImageError("missing") where it cannot be read, "too_large"
    past 1 GiB."""
    name = os.fsdecode(path)
    try:
        name_in_root = os.path.join(os.fsencode(root), path)
        with open(name_in_root, "rb", buffering=0, opener=without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("missing", f"{name}: no ordinary file")
            if status.st_size > LARGEST:
                raise ImageError("too_large", f"{name}: more than {LARGEST} bytes")
            return file.read()
    except OSError as error:
        raise ImageError("missing", f"{name}: {error.strerror}") from error
