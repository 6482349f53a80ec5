"""Packed images: a few large files instead of a million small ones, read through memory maps.

A pack is a folder: pack.json says what it is, CHECKSUMS (sha256sum's format) holds its shards'
digests, and each shard, images-00000.h5, holds contiguous, uncompressed, little-endian

    bytes (total,) uint8     the image files one after the other
    offset (N + 1,) int64    where each begins; an image that could not be used takes no bytes
    path (N,) bytes          relative, UTF-8, as in the folder that was packed: a mask cache's rows
    are found by them source (N, 2) int64      byte length and mtime (ns) of what was packed

`python -m data pack` makes it (data/sources/pack.py).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from data.cache.shard import problem, read_checksums
from data.cli import UsageError
from data.io import map_bytes
from data.sources.archives import MISSING
from data.sources.decode import ImageError
from data.sources.images import Images

PACK, SCHEMA = "pack.json", 1
LARGEST = 1 << 24  # bytes of pack.json that are read
OPEN_MAPS = 16384  # the kernel allows a process 65,530


class PackError(UsageError):
    """A pack that cannot be used: the message names the file and says what to do."""


REPAIR = "run the same `python -m data pack` again with --repair, which makes it anew"


def is_pack(folder: str | os.PathLike) -> bool:
    return os.path.isfile(os.path.join(folder, PACK))


def describe(folder: str | os.PathLike) -> dict:
    """pack.json: schema, side, quality, images, shard_size, and of each shard its file's length in
    bytes.

    Raises:
        PackError: no pack, a damaged description, or one of another version.
    """
    file = Path(folder, PACK)
    try:
        with open(file, "rb") as content:
            found = json.loads(content.read(LARGEST))
        ints = [found[name] for name in ("schema", "images", "shard_size", "side", "quality")]
        if (
            not all(isinstance(n, int) and n >= 0 for n in [*ints, *found["file_bytes"]])
            or not found["shard_size"]
            or len(found["file_bytes"]) != -(-found["images"] // found["shard_size"])
        ):
            raise ValueError
    except FileNotFoundError:
        raise PackError(
            f"{folder}: no pack of images here (no {PACK}); make one with `python -m data pack IMAGES "
            f"{folder}`"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise PackError(f"{file}: damaged; delete it, and {REPAIR}") from None
    if found["schema"] != SCHEMA:
        raise PackError(
            f"{file}: schema {found['schema']}, this version reads {SCHEMA}: make the pack anew"
        )
    return found


def shard_file(folder: str | os.PathLike, number: int) -> Path:
    return Path(folder, f"images-{number:05d}.h5")


def read_shard(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """A shard's path, offset (N + 1,), source (N, 2), and where its bytes begin in the file.

    Raises:
        PackError: missing, damaged, or not of this schema.
    """
    try:
        with h5py.File(file, "r", locking=False) as shard:
            content = shard["bytes"]
            if any(
                shard[name].nbytes > file.stat().st_size for name in ("path", "offset", "source")
            ):
                raise ValueError("a column longer than the file")  # or memory would be taken for it
            paths, offset, source = (shard[name][...] for name in ("path", "offset", "source"))
            place = content.id.get_offset()
            whole = (
                content.shape == (offset[-1],)
                and content.dtype == np.uint8
                and offset[0] == 0
                and paths.dtype.kind == "S"
                and paths.shape == (len(offset) - 1,)
                and source.shape == (len(paths), 2)
                and (np.diff(offset) >= 0).all()
                and (place is not None or not offset[-1])
            )
    except (OSError, KeyError, RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = (
            "is missing"
            if not file.exists()
            else f"is damaged or cut short ({' '.join(str(error).split())[:80]})"
        )
        raise PackError(f"{file} {reason}: {REPAIR}") from error
    if not whole:
        raise PackError(f"{file} is damaged: its columns do not fit together; {REPAIR}")
    return paths, offset, source, place or 0


@dataclass
class Packed(Images):
    """Images of a pack by row: what data.sources.images.Images is to whoever reads them. Pickles
    without its maps.

    Attributes:
        spans: (N, 4) int64: place in the shard's file, byte length, the source's mtime (ns), number
            of the shard (MISSING: not in the pack).
    """

    _maps: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @property
    def altered(self) -> str:
        """The reduction that the pack was made with; empty with side 0."""
        made = describe(self.root)
        return (
            f"short side {made['side']} px at most, JPEG quality {made['quality']}"
            if made["side"]
            else ""
        )

    def take(self, rows) -> Packed:
        """The images of `rows` (a slice or an index array)."""
        return Packed(self.root, self.paths[rows], self.spans[rows])

    def read(self, row: int) -> bytes:
        """The image file's bytes; ImageError("missing") where the pack has none, or its shard is
        gone or cut short."""
        place, length, _, number = self.spans[row].tolist()
        if number == MISSING or not length:
            raise ImageError(
                "missing",
                f"{os.fsdecode(self.paths[row])}: could not be used when {self.root} was made, "
                "or is not in it",
            )
        shard = self._maps.get(number)
        if shard is None:
            shard = self._open(number)
        if place + length > len(shard):
            raise ImageError(
                "missing",
                f"{os.fsdecode(self.paths[row])}: lies past its shard's end ({self.root})",
            )
        return shard[place : place + length].tobytes()

    def _open(self, number: int) -> np.ndarray:
        file = shard_file(self.root, number)
        if len(self._maps) >= OPEN_MAPS:
            self._maps.clear()
        try:
            self._maps[number] = map_bytes(file, 0, file.stat().st_size)
        except (OSError, ValueError) as error:
            raise ImageError("missing", f"{file}: {error}") from error
        return self._maps[number]

    def stat(self) -> np.ndarray:
        """(N, 2) int64: byte length in the pack, and the source's mtime in nanoseconds."""
        return np.ascontiguousarray(self.spans[:, 1:3])

    def __getstate__(self) -> dict:
        return {
            "root": self.root,
            "paths": self.paths,
            "spans": self.spans,
            "_file": None,
            "_maps": {},
        }


def open_pack(folder: str | os.PathLike, wanted: np.ndarray | None = None) -> Packed:
    """All images of a pack, or those of `wanted` ((M,) sorted bytes), which need not be there.

    Raises:
        PackError: no pack, an unfinished one, or a shard missing, damaged or cut short.
    """
    folder = os.fspath(folder)
    description = describe(folder)
    paths, spans = [], []
    for number, expected in enumerate(description["file_bytes"]):
        file = shard_file(folder, number)
        found = file.stat().st_size if file.exists() else -1
        if found < expected:  # reading a map past the end of its file would be a SIGBUS
            raise PackError(
                f"{file} is {'missing' if found < 0 else f'cut short ({found} of {expected} bytes)'}: "
                f"{REPAIR}"
            )
        path, offset, source, place = read_shard(file)
        if place + offset[-1] > found:
            raise PackError(f"{file} is damaged: its images end past its end; {REPAIR}")
        paths.append(path)
        spans.append(
            np.column_stack(
                [place + offset[:-1], np.diff(offset), source[:, 1], np.full(len(path), number)]
            )
        )
    paths, spans = np.concatenate(paths), np.concatenate(spans).astype("<i8")
    if len(paths) != description["images"] or (paths[1:] <= paths[:-1]).any():
        raise PackError(f"{folder}: its shards do not belong together; {REPAIR}")
    if wanted is None:
        return Packed(folder, paths, spans)
    rows = np.minimum(np.searchsorted(paths, wanted), len(paths) - 1)
    places = spans[rows]
    places[paths[rows] != wanted] = 0, 0, 0, MISSING
    return Packed(folder, wanted, places)


def verify_pack(folder: str | os.PathLike):
    """Check every shard against CHECKSUMS; yields (file name, None or what is wrong), in order."""
    folder = Path(folder)
    checksums = read_checksums(folder)
    for number in range(len(describe(folder)["file_bytes"])):
        name = shard_file(folder, number).name
        yield name, problem(folder, name, checksums)
