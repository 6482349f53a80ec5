"""Which images there are: a folder searched to any depth."""

import os
from collections import Counter
from collections.abc import Iterator

import numpy as np

from data.cli import UsageError, note
from data.columns import LONGEST
from data.io import is_system

# torchvision's ImageFolder reads these too
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
ENDINGS = tuple(e.encode() for e in EXTENSIONS)
# what holds pictures too, and is not read
OTHER = frozenset(
    b".gif .heic .heif .avif .jp2 .jxl .jfif .tga .psd .svg .npy .raw .dng .tar .zip .gz".split()
)


class Paths:
    """Gathers byte paths.

    Attributes:
        left_out: number of files of each ending that holds pictures but is not read.
    """

    def __init__(self):
        self.paths: list[bytes] = []
        self.left_out: Counter[bytes] = Counter()

    def add(self, path: bytes) -> None:
        if len(path) > LONGEST:
            raise UsageError(
                f"{os.fsdecode(path[:80])}...: a path of {len(path)} bytes; at most {LONGEST} are "
                "taken"
            )
        self.paths.append(path)

    def add_image(self, path: bytes) -> bool:
        """Add a file's path where its name says that it is an image; whether it does."""
        if is_image(path):
            self.add(path)
            return True
        ending = os.path.splitext(path)[1].lower()
        if ending in OTHER:
            self.left_out[ending] += 1
        return False

    def images(self, root: str) -> np.ndarray:
        """All paths in the order they came, (N,) fixed-length bytes, and a note on what was left
        out; UsageError where there is no image."""
        counts = ", ".join(f"{n} {e.decode()}" for e, n in sorted(self.left_out.items()))
        if not self.paths:
            raise UsageError(
                f"{root}: no images ({', '.join(EXTENSIONS)}) in it or below it"
                + (f"; it holds {counts}, which are not read" if counts else "")
            )
        if counts:
            note(f"{root}: left out {counts}, which are not read as images")
        return np.array(self.paths)


def is_image(name: bytes) -> bool:
    return name.lower().endswith(ENDINGS)


def list_folder(root: str) -> np.ndarray:
    """(N,) sorted relative paths of all images under `root`; links are followed as torchvision's
    ImageFolder does.

    Raises:
        UsageError: no image in it, or a path longer than LONGEST bytes.
        OSError: a folder that may not be read.
    """
    gathered = Paths()
    for path in files_below(root):
        gathered.add_image(path)
    paths = gathered.images(root)
    paths.sort()
    return paths


def files_below(root: str) -> Iterator[bytes]:
    """Relative paths of all files below a folder, links followed, without what systems put there;
    OSError where a folder may not be read."""
    top = os.fsencode(root)
    above: dict[bytes, list[bytes]] = {top: []}  # real paths of the folders above each
    for folder, folders, files in os.walk(top, onerror=_raise, followlinks=True):
        real = [*above.pop(folder), os.path.realpath(folder) + b"/"]
        below = folder.removeprefix(top).lstrip(b"/")
        folders[:] = [n for n in folders if not is_system(n)]
        folders[:] = [n for n in folders if not _is_cycle(os.path.join(folder, n), real)]
        above |= {os.path.join(folder, name): real for name in folders}
        for name in files:
            if not is_system(name):
                yield os.path.join(below, name)


def _is_cycle(folder: bytes, above: list[bytes]) -> bool:
    """Whether a folder leads back to one above it, which would never end."""
    target = os.path.realpath(folder) + b"/"
    return any(real.startswith(target) for real in above)


def _raise(error: OSError) -> None:
    raise error


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
