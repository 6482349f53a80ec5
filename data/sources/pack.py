"""Makes a pack of images (data/sources/packed.py): each image's file, made smaller where it is
larger than needed.

Shards are immutable, atomic and the unit of resuming: a shard whose images are those of now,
unchanged, is kept.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from data.checksums import problem, read_checksums, write_checksums
from data.cli import UsageError
from data.columns import own_width, to_bytes
from data.io import Busy, entries, lock, read_json, remove_temporary, write_bytes, write_text
from data.parallel import bounded_map
from data.sources.decode import ORIENTATION, orientation
from data.sources.images import ImageError, Images, decode, image_size, open_images
from data.sources.packed import PACK, SCHEMA, PackError, describe, is_pack, read_shard, shard_name

BLOCK = 64  # images a task
AHEAD = 2  # tasks that wait for each worker
# bytes; a broken file up to this is kept as it is, so that it fails as it does in the folder
KEPT_BROKEN = 1 << 20
SETTINGS = "settings.json"  # of a pack that is being made
OWN = ("images-*", "CHECKSUMS*", f"{PACK}*", f"{SETTINGS}*")  # what its folder may hold


@dataclass(frozen=True)
class Settings:
    """How a pack is made."""

    side: int = 256
    """Short side that larger images are reduced to, in pixels; smaller ones stay byte for byte. 0
    reduces none."""
    quality: int = 90
    """JPEG quality of the reduced ones, 1..100."""
    shard_size: int = 2048
    """Images a file."""

    def check(self) -> None:
        """UsageError where a number is out of its range."""
        if self.side < 0 or not 1 <= self.quality <= 100 or self.shard_size < 1:
            raise UsageError(
                f"--side {self.side} --quality {self.quality} --shard-size {self.shard_size}: "
                "needs side at least 0, quality in 1..100, shard size at least 1"
            )


@dataclass(frozen=True)
class Outcome:
    """How many images were packed now, and how many of the pack's take no bytes: missing, or broken
    and large."""

    packed: int
    unusable: int


@dataclass(frozen=True)
class Part:
    """The images of one shard, what their files are now (N, 2), and the shard's file."""

    images: Images
    sources: np.ndarray
    file: Path


def smaller(content: bytes, side: int, quality: int) -> bytes:
    """An image file no larger than needed: its short side is `side` pixels at most.

    A file that is small enough stays as it is, byte for byte. Others are decoded as every stage
    does (data/sources/decode.py), area-averaged, and written as JPEG with OpenCV's settings (4:2:0
    chroma). Its EXIF orientation stays, by which maps of the displayed picture are turned.

    Args:
        side: in pixels; 0 keeps every file as it is.
        quality: of JPEG, 1..100.

    Raises:
        ImageError: it cannot be decoded.
    """
    width, height = image_size(content) if side else (0, 0)
    short = min(width, height)
    if short <= side:
        return content
    size = max(1, round(width * side / short)), max(1, round(height * side / short))
    image = cv2.resize(decode(content), size, interpolation=cv2.INTER_AREA)
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality]
    jpeg = cv2.imencode(".jpg", image[..., ::-1], settings)[1].tobytes()
    turn = orientation(content)
    if turn == 1:
        return jpeg
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    tags = exif.tobytes()
    return jpeg[:2] + b"\xff\xe1" + (len(tags) + 2).to_bytes(2, "big") + tags + jpeg[2:]


def pack(
    root: str,
    folder: str,
    settings: Settings = Settings(),
    *,
    workers: int = 1,
    listed: str | None = None,
    repair: bool = False,
) -> Outcome:
    """Make, complete or repair the pack `folder` of all images under `root`.

    Args:
        root: what open_images takes; another pack too.
        workers: processes; the files do not depend on it.
        listed: text file of the paths to take; None: all.
        repair: check every shard against its SHA-256 and rebuild the damaged ones.

    Raises:
        UsageError: a number out of its range, no images, a folder of something else, or a finished
            pack of other images.
        OSError: no space, a read-only folder; finished shards stay.
    """
    settings.check()
    if workers < 1:
        raise UsageError(f"--workers {workers}: needs at least 1")
    images, out = open_images(root, listed), Path(folder)
    _check_folder(out, settings)
    out.mkdir(parents=True, exist_ok=True)
    parts = _parts(images, settings.shard_size, out)
    missing: list[Part] = []
    try:
        with lock(out / ".lock", f"{out}: another process is making this pack", may_read=True):
            remove_temporary(out)
            missing = _missing(parts, out, settings, repair)
            _write(missing, parts, images, out, settings, workers)
    except Busy:  # of many jobs that start with this command on a finished pack, none may fail
        if repair or not is_pack(out) or _missing(parts, out, settings, repair):
            raise
    offsets = (read_shard(part.file).offsets for part in parts)
    unusable = sum(int((np.diff(places) == 0).sum()) for places in offsets)
    return Outcome(sum(len(part.images) for part in missing), unusable)


def _check_folder(folder: Path, settings: Settings) -> None:
    """UsageError where the folder holds other files, or a pack with other settings."""
    strange = [file for file in entries(folder) if not any(file.match(pattern) for pattern in OWN)]
    if strange:
        raise UsageError(f"{strange[0]}: is no part of a pack of images; choose another OUT")
    before = {}
    if is_pack(folder):
        before = describe(folder)
    elif (folder / SETTINGS).exists():
        with contextlib.suppress(ValueError, TypeError):  # a damaged one is of other settings
            before = dict(read_json(folder / SETTINGS))
    else:
        return
    wanted = asdict(settings) | {"schema": SCHEMA}
    different = [f"{k} {before.get(k)} -> {v}" for k, v in wanted.items() if before.get(k) != v]
    if different:
        raise UsageError(
            f"{folder}: holds a pack with other settings ({', '.join(different)}); choose another "
            "OUT, or delete it"
        )


def _missing(parts: list[Part], folder: Path, settings: Settings, repair: bool) -> list[Part]:
    """The shards that are to be written. UsageError where a finished pack is of others."""
    checksums, finished = read_checksums(folder), is_pack(folder)
    images = sum(len(part.images) for part in parts)
    count = describe(folder)["images"] if finished else images
    if count != images:
        raise UsageError(
            f"{folder}: is a finished pack of {count} images, and there are {images} now; "
            "choose another OUT, or delete it"
        )
    return [part for part in parts if not _is_kept(part, settings, checksums, finished, repair)]


def _write(
    missing: list[Part],
    parts: list[Part],
    images: Images,
    folder: Path,
    settings: Settings,
    workers: int,
) -> None:
    """Write the missing shards and, where it lacks, the description of all parts."""
    checksums, finished = read_checksums(folder), is_pack(folder)
    description = {"schema": SCHEMA} | asdict(settings)
    if not finished:
        write_text(folder / SETTINGS, json.dumps(description) + "\n")
    for part, content in _shards(missing, settings, workers):
        write_bytes(part.file, content)
        checksums[part.file.name] = hashlib.sha256(content).hexdigest()
        write_checksums(folder, checksums)
    if missing or not finished:
        description |= {"images_root": Path(images.root).resolve().name, "images": len(images)}
        description |= {"file_bytes": [part.file.stat().st_size for part in parts]}
        write_text(folder / PACK, json.dumps(description, indent=2) + "\n")
        (folder / SETTINGS).unlink(missing_ok=True)


def _parts(images: Images, size: int, folder: Path) -> list[Part]:
    sources = images.stat()
    rows = [slice(first, first + size) for first in range(0, len(images), size)]
    return [
        Part(images.take(part), sources[part], folder / shard_name(number))
        for number, part in enumerate(rows)
    ]


def _is_kept(
    part: Part, settings: Settings, checksums: dict[str, str], finished: bool, repair: bool
) -> bool:
    """Whether a shard is there, of these images, unchanged, and none that it lacks can be read now.
    UsageError where a finished pack's is of others: whoever reads it now would find other images
    in their places."""
    file = part.file
    if file.name not in checksums or not file.exists():
        return False
    if repair and problem(file.parent, file.name, checksums):
        return False
    with contextlib.suppress(PackError):
        shard = read_shard(file)
        same = np.array_equal(shard.paths, part.images.paths)
        if same and np.array_equal(shard.sources, part.sources):
            unread = np.flatnonzero(np.diff(shard.offsets) == 0)
            return not any(_pack_image(part.images, row, settings) for row in unread.tolist())
    if finished:
        raise UsageError(
            f"{file.parent}: is a finished pack, and images of {file.name} were changed since; "
            "choose another OUT, or delete it"
        )
    return False


def _shards(parts: list[Part], settings: Settings, workers: int) -> Iterator[tuple[Part, bytes]]:
    """Each part with its shard's bytes, computed block by block ahead by the workers."""
    blocks = (
        part.images.take(slice(first, first + BLOCK))
        for part in parts
        for first in range(0, len(part.images), BLOCK)
    )
    function = partial(_pack_block, settings=settings)
    files = bounded_map(function, blocks, workers if workers > 1 else 0, ahead=AHEAD)
    total = sum(len(part.images) for part in parts)
    bar = tqdm(total=total, desc="pack", unit="img", delay=2, smoothing=0.05)
    with closing(files), bar:
        for part in parts:
            contents: list[bytes] = []
            while len(contents) < len(part.images):
                block = next(files)
                contents += block
                bar.update(len(block))
            columns = {
                "path": own_width(part.images.paths),
                "offset": np.cumsum([0, *map(len, contents)]).astype("<i8"),
                "source": part.sources.astype("<i8"),
                "bytes": np.frombuffer(b"".join(contents), np.uint8),
            }
            yield part, to_bytes(columns)


def _pack_block(images: Images, settings: Settings) -> list[bytes]:
    return [_pack_image(images, row, settings) for row in range(len(images))]


def _pack_image(images: Images, row: int, settings: Settings) -> bytes:
    """What the pack holds of an image; nothing where it cannot be read, or is broken and large."""
    content = b""
    try:
        content = images.read(row)
        return smaller(content, settings.side, settings.quality)
    except ImageError:
        return content if len(content) <= KEPT_BROKEN else b""
