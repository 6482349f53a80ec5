"""Which images there are: a folder searched to any depth, or a text file of relative paths.

A million paths are never a Python list: they are gathered into numpy byte arrays a few thousand at
    a time.
"""

from __future__ import annotations

import os

import numpy as np

from data.cli import UsageError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
ENDINGS = tuple(e.encode() for e in EXTENSIONS)
# bytes of a path: rows are as wide as the longest, so one absurd path would cost gigabytes
LONGEST = 1024
PIECE = 8192  # paths held as Python objects at a time


class Paths:
    """Gathers byte paths into one sorted (N,) array of fixed-length bytes."""

    def __init__(self):
        self.pieces: list[np.ndarray] = []
        self.last: list[bytes] = []

    def add(self, path: bytes) -> None:
        if len(path) > LONGEST:
            raise UsageError(
                f"{os.fsdecode(path[:80])}...: a path of {len(path)} bytes; at most {LONGEST} are taken"
            )
        self.last.append(path)
        if len(self.last) == PIECE:
            self._pack()

    def _pack(self) -> None:
        if self.last:
            self.pieces.append(np.array(self.last, f"S{max(map(len, self.last))}"))
            self.last = []

    def array(self) -> np.ndarray:
        """All paths in the order they came; the gatherer is empty then."""
        self._pack()
        paths = np.zeros(
            sum(map(len, self.pieces)), f"S{max((p.itemsize for p in self.pieces), default=1)}"
        )
        end = len(paths)
        while (
            self.pieces
        ):  # each goes as soon as it is copied: the list is in memory once and a piece
            piece = self.pieces.pop()
            paths[end - len(piece) : end] = piece
            end -= len(piece)
        return paths


def is_image(name: bytes) -> bool:
    return name.lower().endswith(ENDINGS)


def list_folder(root: str) -> np.ndarray:
    """(N,) sorted relative paths of all images under `root`; links are followed as torchvision's
    ImageFolder does.

    Raises:
        UsageError: no image in it, or a path longer than LONGEST bytes.
    """
    found = Paths()
    _walk(os.fsencode(root), b"", found, frozenset())
    paths = found.array()
    if not len(paths):
        raise UsageError(f"{root}: no images ({', '.join(EXTENSIONS)}) in this folder or below it")
    paths.sort()
    return paths


def _walk(folder: bytes, prefix: bytes, found: Paths, parents: frozenset[tuple[int, int]]) -> None:
    stat = os.stat(folder)
    here = (stat.st_dev, stat.st_ino)
    if here in parents:  # a link back to one of its own parents would never end
        return
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_folder(entry):
                folders.append(
                    entry.name
                )  # entered after this one is closed: no descriptor a level
            elif is_image(entry.name):
                found.add(prefix + entry.name)
    for name in folders:
        _walk(folder + b"/" + name, prefix + name + b"/", found, parents | {here})


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def read_list(file: str, option: str = "--list") -> np.ndarray:
    """(N,) sorted relative paths from a text file, one a line, UTF-8; empty lines are skipped, as
    are repeated ones.

    Raises:
        UsageError: no such file, no path in it, or a path that would leave the root (it names the
            line).
    """
    found = Paths()
    try:
        with open(file, "rb") as lines:
            for number, line in enumerate(lines, 1):
                line = line.rstrip(b"\r\n").removeprefix(b"./")
                if not line:
                    continue
                if not inside(line):
                    raise UsageError(
                        f"{file}, line {number}: {os.fsdecode(line[:200])!r} is not a path below the "
                        "image root; write relative paths without '..'"
                    )
                found.add(line)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError(f"{option} {file}: {error.strerror}") from error
    paths = found.array()
    if not len(paths):
        raise UsageError(f"{option} {file}: names no image")
    paths.sort()
    repeated = paths[1:] == paths[:-1]
    return paths[np.append(True, ~repeated)] if repeated.any() else paths


def inside(path: bytes) -> bool:
    """True where a relative path cannot leave its root: not absolute, no '..' or empty part, no
    NUL."""
    return b"\0" not in path and all(part not in (b"", b".", b"..") for part in path.split(b"/"))
