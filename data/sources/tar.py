"""The images in a tar: one pass over its headers."""

import io
import os
import tarfile
from array import array
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from data.cli import UsageError
from data.io import is_system
from data.sources.base import MISSING
from data.sources.listing import Paths, inside, is_image

LARGEST_HEADER = 1 << 24  # a name or attributes may claim to be as long as they like
DEPTH = 3  # links followed inside an archive


class Scan:
    """Gathers the images of one or more tars.

    Attributes:
        spans: place, byte length and mtime (ns) of each path, one after the other.
        links: row of a link -> the path that it points to.
    """

    def __init__(self):
        self.paths, self.spans = Paths(), array("q")
        self.links: dict[int, bytes] = {}

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
        try:
            with _Headers(file) as content, bar:
                for name, member in _members(content, size):
                    bar.update(max(0, member.offset_data - bar.n))
                    if not (member.isreg() and name.lower().endswith(b".tar")):
                        self._image(member, prefix, name)
                        continue
                    content.seek(member.offset_data)
                    for inner, image in _members(content, member.offset_data + member.size):
                        self._image(image, prefix + name[:-4] + b"/", inner)
        except UsageError:
            raise
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise UsageError(
                f"{file}: not a plain tar, or cut short ({error}); compressed archives must be "
                "decompressed first: they cannot be read at random"
            ) from error

    def _image(self, member: tarfile.TarInfo, prefix: bytes, name: bytes) -> None:
        row = len(self.spans) // 3
        if not self.paths.add_image(prefix + name):
            return
        if member.islnk() or member.issym():
            base = os.path.dirname(name) if member.issym() else b""
            target = os.path.normpath(os.path.join(base, os.fsencode(member.linkname)))
            self.links[row] = prefix + target
        regular = member.isreg() and not member.issparse()
        span = member.offset_data, member.size, int(member.mtime * 1_000_000_000)
        self.spans.extend(span if regular else (MISSING, 0, 0))

    def result(self, root: str) -> tuple[np.ndarray, np.ndarray]:
        """Sorted paths (N,) bytes and spans (N, 3) int64. Of two members of one path the later
        counts, as in unpacking.

        Raises:
            UsageError: there is no image.
        """
        paths = self.paths.images(root)
        spans = np.array(self.spans, "<i8").reshape(-1, 3)
        self._resolve(paths, spans)
        unique, last = np.unique(paths[::-1], return_index=True)
        return unique, spans[::-1][last]

    def _resolve(self, paths: np.ndarray, spans: np.ndarray) -> None:
        """Give links inside the archive the place of what they point to."""
        rows = {path: row for row, path in enumerate(paths.tolist())} if self.links else {}
        for _ in range(DEPTH):  # links to links
            for row, target in self.links.items():
                spans[row] = spans[rows.get(target, row)]


class _Headers(io.FileIO):
    """A tar as tarfile reads it here: its headers alone."""

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {count} bytes")
        return super().read(count)


def _members(content: _Headers, end: int) -> Iterator[tuple[bytes, tarfile.TarInfo]]:
    """(name, member) of the tar that begins where `content` stands and ends at `end` at the latest,
    without folders and what systems put there."""
    if content.tell() >= end:
        raise tarfile.ReadError("empty file")
    with tarfile.open(fileobj=content, mode="r:") as tar:
        while (member := tar.next()) is not None and member.offset < end:
            tar.members = []  # or a million of them stay in memory
            name = os.fsencode(member.name).removeprefix(b"./").rstrip(b"/")
            if member.isdir():
                continue
            if not inside(name):
                raise UsageError(
                    f"{content.name}: member {member.name!r} would leave the folder it is unpacked "
                    "to; repack the archive with relative paths"
                )
            if any(is_system(part) for part in name.split(b"/")):
                continue
            if is_image(name) and member.offset_data + member.size > end:
                raise tarfile.ReadError("unexpected end of data")
            yield name, member
        content.seek(tar.offset)
        if tar.offset < end and any(content.read(tarfile.BLOCKSIZE)):  # tarfile ends at it
            raise tarfile.ReadError(f"no header at byte {tar.offset}")
