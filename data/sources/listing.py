"""Which images there are: a folder searched to any depth.

A million paths are never a Python list: they are gathered into numpy byte arrays a few thousand at
a time.
"""

from __future__ import annotations

import os
from collections import Counter

import numpy as np

from data.cli import UsageError, note

# torchvision's ImageFolder reads these too
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
ENDINGS = tuple(e.encode() for e in EXTENSIONS)
# what holds pictures too, and is not read
OTHER = frozenset(
    b".gif .heic .heif .avif .jp2 .jxl .jfif .tga .psd .svg .npy .raw .dng .tar .zip .gz".split()
)
# what file systems and tools put beside data, besides hidden names
SYSTEM = frozenset(
    b"@eaDir @Recycle #recycle #snapshot ~snapshot $RECYCLE.BIN __MACOSX lost+found".split()
)
# bytes of a path: rows are as wide as the longest, so one absurd path would cost gigabytes
LONGEST = 1024
PIECE = 8192  # paths held as Python objects at a time


class Paths:
    """Gathers byte paths into one (N,) array of fixed-length bytes.

    Attributes:
        left_out: number of files of each ending that holds pictures but is not read.
    """

    def __init__(self):
        self.pieces: list[np.ndarray] = []
        self.last: list[bytes] = []
        self.left_out: Counter[bytes] = Counter()

    def add(self, path: bytes) -> None:
        if len(path) > LONGEST:
            raise UsageError(
                f"{os.fsdecode(path[:80])}...: a path of {len(path)} bytes; at most {LONGEST} are "
                "taken"
            )
        self.last.append(path)
        if len(self.last) == PIECE:
            self._pack()

    def add_image(self, path: bytes) -> bool:
        """Add a file's path where its name says that it is an image; whether it does."""
        if is_image(path):
            self.add(path)
            return True
        ending = os.path.splitext(path)[1].lower()
        if ending in OTHER:
            self.left_out[ending] += 1
        return False

    def _pack(self) -> None:
        if self.last:
            self.pieces.append(np.array(self.last, f"S{max(map(len, self.last))}"))
            self.last = []

    def array(self) -> np.ndarray:
        """All paths in the order they came; the gatherer is empty then."""
        self._pack()
        width = max((p.itemsize for p in self.pieces), default=1)
        paths = np.zeros(sum(map(len, self.pieces)), f"S{width}")
        end = len(paths)
        while self.pieces:  # each goes once it is copied: the list is in memory once and a piece
            piece = self.pieces.pop()
            paths[end - len(piece) : end] = piece
            end -= len(piece)
        return paths

    def images(self, root: str) -> np.ndarray:
        """As `array`, and a note on what was left out; UsageError where there is no image."""
        paths = self.array()
        counts = ", ".join(f"{n} {e.decode()}" for e, n in sorted(self.left_out.items()))
        if not len(paths):
            raise UsageError(
                f"{root}: no images ({', '.join(EXTENSIONS)}) in it or below it"
                + (f"; it holds {counts}, which are not read" if counts else "")
            )
        if counts:
            note(f"{root}: left out {counts}, which are not read as images")
        return paths


def is_image(name: bytes) -> bool:
    return name.lower().endswith(ENDINGS)


def is_system(name: bytes) -> bool:
    """True for a file's or folder's own name that a system or a tool made, which is no data:
    .ipynb_checkpoints, ._x.jpg, .DS_Store, @eaDir, lost+found."""
    return name.startswith(b".") or name in SYSTEM


def list_folder(root: str) -> np.ndarray:
    """(N,) sorted relative paths of all images under `root`; links are followed as torchvision's
    ImageFolder does.

    Raises:
        UsageError: no image in it, or a path longer than LONGEST bytes.
        OSError: a folder that may not be read.
    """
    gathered = Paths()
    _walk(os.fsencode(root), b"", gathered, frozenset())
    paths = gathered.images(root)
    paths.sort()
    return paths


def _walk(
    folder: bytes, prefix: bytes, gathered: Paths, parents: frozenset[tuple[int, int]]
) -> None:
    stat = os.stat(folder)
    here = (stat.st_dev, stat.st_ino)
    if here in parents:  # a link back to one of its own parents would never end
        return
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_system(entry.name):
                continue
            if _is_folder(entry):
                folders.append(entry.name)  # entered once this one is closed: no descriptor a level
            else:
                gathered.add_image(prefix + entry.name)
    for name in folders:
        _walk(folder + b"/" + name, prefix + name + b"/", gathered, parents | {here})


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def inside(path: bytes) -> bool:
    """True where a relative path cannot leave its root: not absolute, no '..' or empty part, no
    NUL."""
    return b"\0" not in path and all(part not in (b"", b".", b"..") for part in path.split(b"/"))


def all_inside(paths: np.ndarray) -> bool:
    """True where `inside` is of every one of (N,) byte paths."""
    odd = np.char.startswith(paths, b"/") | (np.char.find(paths, b"//") >= 0)
    odd |= (np.char.find(paths, b"./") >= 0) | np.char.endswith(paths, b".")
    odd |= np.char.endswith(paths, b"/") | (paths == b"")
    return all(inside(path) for path in paths[odd].tolist())
