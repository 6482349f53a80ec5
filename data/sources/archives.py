"""Images inside a tar, or a tar of tars as ImageNet's own, read at random without unpacking.

One pass over the headers makes an index of paths and places; it is kept beside the archive, or in
the user's cache folder where that is read-only, and holds as long as the archive's length and mtime
do.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tarfile
from array import array
from pathlib import Path

import h5py
import numpy as np
from tqdm import tqdm

from data.cli import UsageError
from data.io import atomic
from data.sources.listing import EXTENSIONS, Paths, inside, is_image

MISSING = -1  # offset of a link whose target is not in the archive
LARGEST_HEADER = 1 << 24
DEPTH = 3  # links followed inside an archive


def open_archive(file: str) -> tuple[np.ndarray, np.ndarray]:
    """Sorted paths (N,) bytes of the images in a tar, and their places (N, 3) int64: offset in the
    file, byte length, and mtime in nanoseconds.

    A member `n01440764.tar` gives `n01440764/...`, as unpacking ImageNet does. Of two members of
    one name the later counts, as in unpacking.

    Raises:
        UsageError: not a tar, a compressed one, one cut short, no image in it, or a member that
            would leave the root.
    """
    stat = os.stat(file)
    state = np.array([stat.st_size, stat.st_mtime_ns], "<i8")
    for place in _places(file):
        with (
            contextlib.suppress(OSError, KeyError, ValueError),
            h5py.File(place, "r", locking=False) as index,
        ):
            if np.array_equal(index["archive"][...], state):
                return index["path"][...], index["span"][...]
    paths, spans = _scan(file)
    for place in _places(file):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with atomic(place) as temporary, h5py.File(temporary, "w", locking=False) as index:
                index["archive"], index["path"], index["span"] = state, paths, spans
            break
        except OSError:  # a read-only share; the next place
            continue
    return paths, spans


def _places(file: str) -> list[Path]:
    """Where an archive's index may lie, in order of preference."""
    whole = Path(file).resolve()
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.blake2b(os.fsencode(whole), digest_size=8).hexdigest()
    return [
        whole.with_name(whole.name + ".index.h5"),
        home / "dilo" / f"{whole.name}-{name}.index.h5",
    ]


def _scan(file: str) -> tuple[np.ndarray, np.ndarray]:
    found, spans, links = Paths(), array("q"), []
    size = os.path.getsize(file)
    with (
        open(file, "rb") as content,
        tqdm(
            total=size,
            desc=f"index of {os.path.basename(file)}",
            unit="B",
            unit_scale=True,
            delay=2,
            leave=False,
        ) as bar,
    ):
        _members(file, content, 0, size, b"", (found, spans, links), bar)
    paths = found.array()
    spans = np.array(spans, "<i8").reshape(-1, 3)
    if not len(paths):
        raise UsageError(f"{file}: no images ({', '.join(EXTENSIONS)}) in this archive")
    _resolve(paths, spans, dict(links))
    # sorted by path; of equal ones the last in the archive
    order = np.argsort(paths, kind="stable")
    paths = paths[order]
    last = np.append(paths[1:] != paths[:-1], True)
    return paths[last], spans[order][last]


def _members(
    file: str, content, start: int, length: int, prefix: bytes, found: tuple, bar: tqdm
) -> None:
    """Add the images of the tar that lies at `start` in the open file, and of the tars in it."""
    paths, spans, links = found
    window = _Window(content, start, length)
    try:
        with tarfile.open(fileobj=window, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # or a million of them stay in memory
                name = os.fsencode(member.name).removeprefix(b"./").rstrip(b"/")
                if member.isdir():
                    continue
                if not inside(name):
                    raise UsageError(
                        f"{file}: member {member.name!r} would leave the folder it is unpacked to; "
                        "repack the archive with relative paths"
                    )
                place = start + member.offset_data
                if member.isreg() and name.lower().endswith(b".tar") and not prefix:
                    _members(file, content, place, member.size, name[:-4] + b"/", found, bar)
                elif is_image(name):
                    if place + member.size > start + length:
                        raise tarfile.ReadError("unexpected end of data")
                    if member.islnk() or member.issym():
                        target = os.fsencode(member.linkname)
                        base = os.path.dirname(name) if member.issym() else b""
                        links.append(
                            (len(spans) // 3, prefix + os.path.normpath(os.path.join(base, target)))
                        )
                    regular = member.isreg() and not member.issparse()
                    paths.add(prefix + name)
                    mtime = int(member.mtime * 1_000_000_000)
                    spans.extend((place, member.size, mtime) if regular else (MISSING, 0, 0))
                bar.update(max(0, place - bar.n))
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        if isinstance(error, UsageError):
            raise
        inner = f" (in its member {os.fsdecode(prefix.rstrip(b'/'))}.tar)" if prefix else ""
        raise UsageError(
            f"{file}{inner}: not a plain tar, or cut short ({error}); compressed archives must be "
            "decompressed first: they cannot be read at random"
        ) from error


def _resolve(paths: np.ndarray, spans: np.ndarray, links: dict[int, bytes]) -> None:
    """Give links inside the archive the place of what they point to."""
    if not links:
        return
    rows = {path: i for i, path in enumerate(paths.tolist()) if i not in links}
    by_path = {paths[i]: target for i, target in links.items()}
    for i, target in links.items():
        for _ in range(DEPTH):
            target = by_path.get(target, target)
        if target in rows:
            spans[i] = spans[rows[target]]


class _Window:
    """A part of an open file as a file of its own: what tarfile needs of a member that is itself a
    tar."""

    def __init__(self, file, start: int, length: int):
        self.file, self.start, self.length, self.at = file, start, length, 0

    def tell(self) -> int:
        return self.at

    def seek(self, place: int, whence: int = 0) -> int:
        self.at = place if whence == 0 else place + (self.at if whence == 1 else self.length)
        return self.at

    def read(self, count: int = -1) -> bytes:
        if (
            count > LARGEST_HEADER
        ):  # tarfile reads headers only: names and attributes, as long as they claim to be
            raise tarfile.ReadError(f"a header of {count} bytes")
        left = max(0, self.length - self.at)
        self.file.seek(self.start + self.at)
        content = self.file.read(left if count < 0 else min(count, left))
        self.at += len(content)
        return content
