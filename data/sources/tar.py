"""The images in a tar: one pass over its headers."""

from __future__ import annotations

import os
import tarfile
from array import array
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from data.cli import UsageError
from data.sources.base import MISSING
from data.sources.listing import Paths, inside, is_image, is_system

LARGEST_HEADER = 1 << 24  # a name or attributes may claim to be as long as they like
DEPTH = 3  # links followed inside an archive


@dataclass
class Scan:
    """Gathers the images of one or more tars.

    Attributes:
        spans: place, byte length and mtime (ns) of each path, one after the other.
        links: row of a link -> the path that it points to.
    """

    paths: Paths = field(default_factory=Paths)
    spans: array = field(default_factory=lambda: array("q"))
    links: dict[int, bytes] = field(default_factory=dict)

    def add(self, file: str, prefix: bytes = b"") -> None:
        """Add the images of a tar, `prefix` before their paths.

        Raises:
            UsageError: not a tar, a compressed one, one cut short, or a member that would leave the
                root.
        """
        size = os.path.getsize(file)
        bar = tqdm(
            total=size,
            desc=f"index of {os.path.basename(file)}",
            unit="B",
            unit_scale=True,
            delay=2,
            leave=False,
        )
        with open(file, "rb") as content, bar:
            self._members(_Window(content, 0, size), file, prefix, bar)

    def _members(self, window: _Window, file: str, prefix: bytes, bar: tqdm) -> None:
        inner = "" if window.whole else f" (in its member {os.fsdecode(prefix[:-1])}.tar)"
        try:
            with tarfile.open(fileobj=window, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # or a million of them stay in memory
                    if not member.isdir():
                        self._member(member, window, file, prefix, bar)
                    bar.update(max(0, window.start + member.offset_data - bar.n))
        except UsageError:
            raise
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise UsageError(
                f"{file}{inner}: not a plain tar, or cut short ({error}); compressed archives must "
                "be decompressed first: they cannot be read at random"
            ) from error

    def _member(
        self, member: tarfile.TarInfo, window: _Window, file: str, prefix: bytes, bar: tqdm
    ) -> None:
        name = os.fsencode(member.name).removeprefix(b"./").rstrip(b"/")
        if not inside(name):
            raise UsageError(
                f"{file}: member {member.name!r} would leave the folder it is unpacked to; repack "
                "the archive with relative paths"
            )
        if any(is_system(part) for part in name.split(b"/")):
            return
        place = window.start + member.offset_data
        if window.whole and member.isreg() and name.lower().endswith(b".tar"):
            part = _Window(window.file, place, member.size, whole=False)
            self._members(part, file, prefix + name[:-4] + b"/", bar)
            return
        if is_image(name) and member.offset_data + member.size > window.length:
            raise tarfile.ReadError("unexpected end of data")
        row = len(self.spans) // 3
        if not self.paths.add_image(prefix + name):
            return
        if member.islnk() or member.issym():
            base = os.path.dirname(name) if member.issym() else b""
            target = os.path.normpath(os.path.join(base, os.fsencode(member.linkname)))
            self.links[row] = prefix + target
        regular = member.isreg() and not member.issparse()
        mtime = int(member.mtime * 1_000_000_000)
        self.spans.extend((place, member.size, mtime) if regular else (MISSING, 0, 0))

    def result(self, root: str) -> tuple[np.ndarray, np.ndarray]:
        """Sorted paths (N,) bytes and spans (N, 3) int64. Of two members of one path the later
        counts, as in unpacking.

        Raises:
            UsageError: there is no image.
        """
        paths = self.paths.images(root)
        spans = np.array(self.spans, "<i8").reshape(-1, 3)
        self._resolve(paths, spans)
        order = np.argsort(paths, kind="stable")
        paths = paths[order]
        last = np.append(paths[1:] != paths[:-1], True)
        return paths[last], spans[order][last]

    def _resolve(self, paths: np.ndarray, spans: np.ndarray) -> None:
        """Give links inside the archive the place of what they point to."""
        if not self.links:
            return
        rows = {path: row for row, path in enumerate(paths.tolist()) if row not in self.links}
        targets = {paths[row]: target for row, target in self.links.items()}
        for row, target in self.links.items():
            for _ in range(DEPTH):
                target = targets.get(target, target)
            if target in rows:
                spans[row] = spans[rows[target]]


class _Window:
    """A part of an open file as a file of its own: what tarfile needs of a member that is itself a
    tar. `whole` where it is all of the file."""

    def __init__(self, file: BinaryIO, start: int, length: int, whole: bool = True):
        self.file, self.start, self.length, self.whole = file, start, length, whole
        self.at = 0

    def tell(self) -> int:
        return self.at

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.length}[whence]
        self.at = origin + place
        return self.at

    def read(self, count: int = -1) -> bytes:
        if count > LARGEST_HEADER:  # tarfile reads headers only
            raise tarfile.ReadError(f"a header of {count} bytes")
        left = max(0, self.length - self.at)
        self.file.seek(self.start + self.at)
        content = self.file.read(left if count < 0 else min(count, left))
        self.at += len(content)
        return content
