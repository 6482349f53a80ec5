"""Images inside a tar, a tar of tars as ImageNet's own, or a folder of class tars, read at random
without unpacking.

One pass over the headers makes an index of paths and places; it is kept beside the archive, or in
the user's cache folder where that cannot be written, and holds as long as the length and mtime of
every tar do.
"""

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.cli import note
from data.columns import open_columns, own_dataset, to_bytes
from data.io import is_system, write_bytes
from data.sources.base import MISSING, Spanned
from data.sources.listing import all_inside
from data.sources.tar import Scan

VERSION = 2  # of the index; raise it when other members count as images


@dataclass
class Archive(Spanned):
    """Images of a tar, or of a folder with a tar a class.

    Attributes:
        spans: (N, 3) int64: offset in the file, byte length, mtime (ns).
    """

    in_folder: bool = False

    def file(self, row: int) -> str:
        if not self.in_folder:
            return self.root
        return os.path.join(self.root, self.name(row).split("/")[0] + ".tar")


def class_tars(folder: str) -> list[str]:
    """The tars in a folder, whose members are one class each: n01440764.tar."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.endswith(".tar")]
    names = sorted(name for name in names if not is_system(name))
    return [name for name in names if os.path.isfile(os.path.join(folder, name))]


def open_archive(root: str) -> Archive:
    """The images in the tar `root`, or in the tars of that folder.

    A member or file `n01440764.tar` gives `n01440764/...`, as unpacking ImageNet does.

    Raises:
        UsageError: not a tar, a compressed one, one cut short, no image in it, or a member that
            would leave the root.
    """
    in_folder = os.path.isdir(root)
    names = class_tars(root) if in_folder else [""]
    files = [os.path.join(root, name) if name else root for name in names]
    stats = [os.stat(file) for file in files]
    state = [(VERSION, len(files)), *((stat.st_size, stat.st_mtime_ns) for stat in stats)]
    expected = np.array(state, "<i8")
    places = _index_places(root)
    for place in places:
        with contextlib.suppress(OSError, ValueError):
            return Archive(root, *_read_index(place, expected), in_folder)
    scan = Scan()
    for name, file in zip(names, files, strict=True):
        scan.add(file, os.fsencode(name.removesuffix(".tar") + "/") if name else b"")
    paths, spans = scan.result(root)
    content = to_bytes({"archive": expected, "path": paths, "span": spans})
    for place in places:
        with contextlib.suppress(OSError):  # a read-only share, or a full disk
            place.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(place, content)
            break
    else:
        note(f"{root}: its index cannot be kept, neither beside it nor in {places[-1].parent}")
    return Archive(root, paths, spans, in_folder)


def _index_places(root: str) -> list[Path]:
    """Where an archive's index may lie, in order of preference."""
    whole = Path(root).resolve()
    name = hashlib.blake2b(os.fsencode(whole), digest_size=8).hexdigest()
    places = [whole.with_name(whole.name + ".index.h5")]
    with contextlib.suppress(RuntimeError):  # no home
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        places.append(home / "dilo" / f"{whole.name}-{name}.index.h5")
    return places


def _read_index(place: Path, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Paths and spans. ValueError where the index is of another state, or no index."""
    with open_columns(place) as file:
        state = own_dataset(file, "archive", "<i8", expected.shape)[...]
        paths = own_dataset(file, "path", "|S", (None,))[...]
        spans = own_dataset(file, "span", "<i8", (len(paths), 3))[...]
    ends = spans[:, :2]
    sound = (
        np.array_equal(state, expected)
        and len(paths)
        and (paths[1:] > paths[:-1]).all()
        and ((ends >= MISSING) & (ends <= expected[1:, 0].max())).all()
        and all_inside(paths)
    )
    if not sound:
        raise ValueError(f"{place}: of another state of the archive")
    return paths, spans
