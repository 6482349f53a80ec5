"""Packed images: a few large files instead of a million small ones.

A pack is a folder: pack.json says what it is, CHECKSUMS (sha256sum's format) holds its shards'
digests, and each shard, images-00000.h5, holds contiguous, uncompressed, little-endian

    bytes (total,) uint8     the image files one after the other
    offset (N + 1,) int64    where each begins; an image that could not be used takes no bytes
    path (N,) bytes          relative, as in the folder that was packed: what a mask cache's rows
                             are found by
    source (N, 2) int64      byte length and mtime (ns) of what was packed

`python -m data pack` makes it (data/sources/pack.py).
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from data.cli import UsageError
from data.columns import open_sound, own_dataset
from data.io import LINKED, is_own, read_json
from data.sources.base import MISSING, Spanned
from data.sources.listing import all_inside

PACK, SCHEMA = "pack.json", 1
REPAIR = "run the same `python -m data pack` again with --repair, which rebuilds it"


class PackError(UsageError):
    """A pack that cannot be used: the message names the file and says what to do."""


class Description(TypedDict):
    """What pack.json holds."""

    schema: int
    side: int
    quality: int
    images: int
    shard_size: int
    file_bytes: list[int]


@dataclass(frozen=True)
class Shard:
    """What a shard holds besides the images: `paths` (N,) bytes, `offsets` (N + 1,) int64,
    `sources` (N, 2) int64, and the `place` in the file where the images' bytes begin."""

    paths: np.ndarray
    offsets: np.ndarray
    sources: np.ndarray
    place: int


def is_pack(folder: str | os.PathLike) -> bool:
    return os.path.isfile(os.path.join(folder, PACK))


def describe(folder: str | os.PathLike) -> Description:
    """The description of a pack.

    Raises:
        PackError: no pack, a damaged description, or one of another version.
    """
    file = Path(folder, PACK)
    try:
        description = read_json(file)
        names = ("schema", "images", "shard_size", "side", "quality")
        counts = [*(description[name] for name in names), *description["file_bytes"]]
        shards = -(-description["images"] // description["shard_size"])
        sound = all(type(n) is int and n >= 0 for n in counts)
        if not sound or len(description["file_bytes"]) != shards:
            raise ValueError("its numbers do not fit together")
    except FileNotFoundError:
        raise PackError(
            f"{folder}: no pack of images here (no {PACK}); make one with `python -m data pack "
            f"IMAGES {folder}`"
        ) from None
    except (ValueError, KeyError, TypeError, ZeroDivisionError):
        advice = f"damaged; delete it, and {REPAIR}" if is_own(file) else LINKED
        raise PackError(f"{file}: {advice}") from None
    if description["schema"] != SCHEMA:
        raise PackError(
            f"{file}: schema {description['schema']}, this version reads {SCHEMA}: pack again"
        )
    return description


def shard_name(number: int) -> str:
    return f"images-{number:05d}.h5"


def shard_names(folder: str | os.PathLike) -> list[str]:
    """The names of a pack's shards, in order."""
    return [shard_name(number) for number in range(len(describe(folder)["file_bytes"]))]


def read_shard(file: Path) -> Shard:
    """Everything of a shard but the images' bytes, which must lie in it.

    Raises:
        PackError: missing, damaged, or not of this schema.
    """
    with open_sound(file, PackError, REPAIR) as shard:
        paths = own_dataset(shard, "path", "|S", (None,))[...]
        offsets = own_dataset(shard, "offset", "<i8", (len(paths) + 1,))[...]
        sources = own_dataset(shard, "source", "<i8", (len(paths), 2))[...]
        content = own_dataset(shard, "bytes", "|u1", (offsets[-1],))
        if offsets[0] or (np.diff(offsets) < 0).any() or not all_inside(paths):
            raise ValueError("its columns do not fit together")
        return Shard(paths, offsets, sources, content.id.get_offset() or 0)


class Packed(Spanned):
    """Images of a pack.

    Attributes:
        spans: (N, 4) int64: place in the shard's file, byte length, the source's mtime (ns), number
            of the shard.
    """

    @property
    def altered(self) -> str:
        """The reduction that the pack was made with; empty with side 0."""
        description = describe(self.root)
        if not description["side"]:
            return ""
        return f"short side {description['side']} px at most, JPEG quality {description['quality']}"

    def file(self, row: int) -> str:
        return os.path.join(self.root, shard_name(self.spans[row, 3]))


def open_pack(folder: str | os.PathLike) -> Packed:
    """All images of a pack.

    Raises:
        PackError: no pack, an unfinished one, or a shard missing, damaged or cut short.
    """
    folder = os.fspath(folder)
    paths, spans = [np.array([], "S1")], [np.zeros((0, 4), "<i8")]
    for number, name in enumerate(shard_names(folder)):
        shard = read_shard(Path(folder, name))
        lengths = np.diff(shard.offsets)
        places = np.where(lengths > 0, shard.place + shard.offsets[:-1], MISSING)
        numbers = np.full(len(places), number)
        paths.append(shard.paths)
        spans.append(np.column_stack([places, lengths, shard.sources[:, 1], numbers]))
    packed = Packed(folder, np.concatenate(paths), np.concatenate(spans))
    in_order = (packed.paths[1:] > packed.paths[:-1]).all()
    if not len(packed) or len(packed) != describe(folder)["images"] or not in_order:
        raise PackError(f"{folder}: its shards do not belong together; {REPAIR}")
    return packed
