"""A run's images, from a folder, a tar, a tar of tars, a pack or a list of paths: the same in every
stage."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

import numpy as np

from data.cli import UsageError
from data.sources.archives import MISSING, open_archive
from data.sources.decode import MAX_PIXELS, ImageError, decode, image_size
from data.sources.listing import EXTENSIONS, list_folder, read_list

__all__ = [
    "EXTENSIONS",
    "MAX_PIXELS",
    "ImageError",
    "Images",
    "class_names",
    "decode",
    "image_size",
    "list_images",
    "open_images",
    "read_bytes",
]
LARGEST = (
    1 << 30
)  # bytes of an image file: more than this is no photograph, and would fill the memory
PIECE = 8192


@dataclass
class Images:
    """Images by row. A part of them (`take`) is small and picklable: what a worker is given.

    Attributes:
        root: the folder, or the tar file.
        paths: (N,) fixed-length bytes, sorted, UTF-8 with forward slashes; the same from a folder
            and from its tar.
        spans: (N, 3) int64, offset, byte length and mtime (ns) in the tar (offset -1: not there);
            None for a folder.
    """

    root: str
    paths: np.ndarray
    spans: np.ndarray | None = None
    _file: int | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def altered(self) -> str:
        """How the files differ from those that were listed once, in words; empty where they do
        not."""
        return ""

    def take(self, rows) -> Images:
        """The images of `rows` (a slice or an index array)."""
        return Images(self.root, self.paths[rows], None if self.spans is None else self.spans[rows])

    def without(self, listed: str | os.PathLike) -> Images:
        """The images that the text file `listed` does not name; UsageError where it names one that
        is not here."""
        names = read_list(os.fspath(listed), "--exclude")
        known = np.isin(names, self.paths)
        if not known.all():
            raise UsageError(
                f"--exclude {listed}: {(~known).sum()} of its paths are not among the images of "
                f"{self.root} (first: {os.fsdecode(names[~known][0])}); write them as "
                "`python -m data list` does"
            )
        return self.take(~np.isin(self.paths, names))

    def read(self, row: int) -> bytes:
        """The image file's bytes. ImageError("missing") where it cannot be read."""
        if self.spans is None:
            return read_bytes(self.root, self.paths[row])
        offset, length, _ = self.spans[row].tolist()
        name = os.fsdecode(self.paths[row])
        if offset == MISSING:
            raise ImageError("missing", f"{name}: is not in {self.root}, or a link to what is not")
        if length > LARGEST:
            raise ImageError("too_large", f"{name}: {length} bytes")
        try:
            if self._file is None:
                self._file = os.open(self.root, os.O_RDONLY | os.O_CLOEXEC)
            content = os.pread(
                self._file, length, offset
            )  # no shared position: safe in threads and after a fork
        except OSError as error:
            raise ImageError("missing", f"{name}: {error.strerror}") from error
        if len(content) < length:
            raise ImageError("missing", f"{name}: lies past the end of {self.root}")
        return content

    def stat(self) -> np.ndarray:
        """(N, 2) int64: byte length and mtime in nanoseconds of each image; zeros where it
        vanished."""
        if self.spans is not None:
            return np.ascontiguousarray(self.spans[:, 1:])
        sources = np.zeros((len(self), 2), "<i8")
        prefix = os.fsencode(self.root) + b"/"
        for first in range(0, len(self), PIECE):
            for i, path in enumerate(self.paths[first : first + PIECE].tolist(), first):
                try:
                    found = os.stat(prefix + path)
                except OSError:
                    continue
                sources[i] = found.st_size, found.st_mtime_ns
        return sources

    def __getstate__(self) -> dict:
        return {"root": self.root, "paths": self.paths, "spans": self.spans, "_file": None}

    def __del__(self):
        if getattr(self, "_file", None) is not None:
            os.close(self._file)


def open_images(root: str | os.PathLike, listed: str | None = None) -> Images:
    """All images under `root`, or those that the text file `listed` names.

    Args:
        root: a folder (any depth, links followed), a tar (plain, or of tars as ImageNet's), read
            without unpacking, or a pack (`python -m data pack`).
        listed: file of relative paths, one a line. One that does not exist gets the status
            "missing" where masks are
            made: the list says what the rows are.

    Raises:
        UsageError: no such folder, no image in it, a bad archive, or a path that would leave the
            root.
    """
    from data.sources.packed import is_pack, open_pack  # which needs this module

    root = os.fspath(root)
    if is_pack(root):
        return open_pack(root, None if listed is None else read_list(listed))
    if os.path.isdir(root):
        return Images(root, list_folder(root) if listed is None else read_list(listed))
    if not os.path.exists(root):
        raise UsageError(f"{root}: no such folder of images")
    paths, spans = open_archive(root)
    if listed is None:
        return Images(root, paths, spans)
    wanted = read_list(listed)
    rows = np.minimum(np.searchsorted(paths, wanted), len(paths) - 1)
    places = spans[rows]
    places[paths[rows] != wanted] = MISSING, 0, 0
    return Images(root, wanted, places)


def list_images(root: str | os.PathLike) -> np.ndarray:
    """(N,) sorted relative paths of all images of a folder or tar; UsageError as open_images."""
    return open_images(root).paths


def class_names(paths: np.ndarray) -> list[str]:
    """The sorted class names of (N,) byte paths like b"class/....jpg": the first folder of each."""
    return sorted({os.fsdecode(p.split(b"/", 1)[0]) for p in paths.tolist() if b"/" in p})


def read_bytes(root: str | os.PathLike, path: bytes) -> bytes:
    """The bytes of a file in a folder; ImageError("missing") where it cannot be read, "too_large"
    past 1 GiB."""
    try:
        with open(os.path.join(os.fsencode(root), path), "rb", opener=_without_waiting) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ImageError("missing", f"{os.fsdecode(path)}: no ordinary file")
            if found.st_size > LARGEST:
                raise ImageError("too_large", f"{os.fsdecode(path)}: more than {LARGEST} bytes")
            return file.read()
    except OSError as error:
        raise ImageError("missing", f"{os.fsdecode(path)}: {error.strerror}") from error


def _without_waiting(path: bytes, flags: int) -> int:
    return os.open(
        path, flags | os.O_NONBLOCK
    )  # or a named pipe called x.jpg would hold the run for ever
