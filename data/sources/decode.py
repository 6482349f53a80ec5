"""Decode one image file: the same way in every stage, so that mask and image always agree.

A file that lost its end is used while at least `WHOLE` of it is there, the rest grey (JPEG) or
black; see `_salvage`.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import cv2
import numpy as np
from PIL import Image

MAX_PIXELS = 100_000_000  # 300 MB of RGB; the largest ImageNet image has 24 Mpx
FORMATS = ("JPEG", "PNG", "WEBP", "BMP")  # by content, not by name: ImageNet has a PNG named .JPEG
WHOLE = 7 / 8  # a file cut by a few bytes is worth using, one cut by half is not
GREY = (
    (128, 128, 128),
    (65, 65, 65),
)  # what libjpeg fills missing blocks with, in RGB; of a CMYK file the second
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG colour type -> samples a pixel
PASSES = (
    (0, 8, 0, 8),
    (0, 8, 4, 8),
    (4, 8, 0, 4),
    (0, 4, 2, 4),
    (2, 4, 0, 2),
    (0, 2, 1, 2),
    (1, 2, 0, 1),
)  # Adam7

FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
# OpenCV names these bits grey, and with a bit for colour they reduce in colour
REDUCE = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}

# JPEG segments that may come before the frame header: Huffman and quantisation tables, restart
# interval, APPn, comment
_BEFORE_FRAME = frozenset((0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE))


class ImageError(Exception):
    """An image that cannot be used; `reason` is one of data.cache.shard.STATUS's names."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def decode(content: bytes, max_pixels: int = MAX_PIXELS, reduce: int = 1) -> np.ndarray:
    """Decode an image file's bytes to (H, W, 3) uint8 RGB.

    EXIF orientation is ignored, as torchvision's ImageFolder does; alpha is dropped; grey becomes
    RGB; 16 bits become
    8. A file cut short or broken on the way is used where at least 7/8 of its rows (JPEG) or its
    data (PNG, BMP) is there.

    Args:
        reduce: 1, 2, 4 or 8: a picture of ceil(H / reduce) x ceil(W / reduce), which costs less
            than the whole one.

    Raises:
        ImageError: "empty", "unreadable", "truncated", or "too_large" (told from the header, before
            memory is taken).
        MemoryError: the machine has not the memory for it now.
    """
    if not content:
        raise ImageError("empty", "the file is empty")
    webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    if webp and len(content) < 8 + int.from_bytes(content[4:8], "little"):
        raise ImageError(
            "truncated", "the WebP file is cut short"
        )  # no decoder here reads part of one
    # the header alone is read first, so that a decompression bomb is refused before OpenCV would
    # allocate it
    size = jpeg_size(content)
    (width, height), kind = (size, "JPEG") if size else _header(content)
    if width * height > max_pixels:
        raise ImageError("too_large", f"{width}x{height} pixels, more than the cap of {max_pixels}")
    # OpenCV takes as much memory as a PNG's chunk claims to be long, 4 GB if it likes
    image = (
        None
        if kind == "PNG" and _overruns(content)
        else _opencv(content, reduce if kind == "JPEG" else 1)
    )
    small = -(-width // reduce), -(-height // reduce)
    if image is None:
        image = _salvage(content, kind, width, height)
    if reduce > 1 and image.shape[:2] == (height, width):
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    if image.shape[1::-1] != small:
        raise ImageError("unreadable", "the header and the data disagree on the size")
    return image


def image_size(content: bytes) -> tuple[int, int]:
    """(width, height) from an image file's header. ImageError as decode; "empty" or "unreadable"
    most often."""
    if not content:
        raise ImageError("empty", "the file is empty")
    return jpeg_size(content) or _header(content)[0]


def jpeg_size(content: bytes) -> tuple[int, int] | None:
    """(width, height) of an ordinary JPEG from its frame header; None where anything is unusual:
    ask Pillow then.

    Twenty times faster than Pillow's header, which was a tenth of the time of decoding. Ordinary is
    8 bits, grey or three channels, baseline or progressive, every marker where ITU-T T.81, B.1.1
    has it.
    """
    if content[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 19 <= len(content) and content[place] == 0xFF:
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if marker in (0xC0, 0xC1, 0xC2):
            height, width = struct.unpack_from(">HH", content, place + 5)
            ordinary = content[place + 4] == 8 and content[place + 9] in (1, 3) and width and height
            return (width, height) if ordinary and length == 8 + 3 * content[place + 9] else None
        if marker not in _BEFORE_FRAME or length < 2:
            return None
        place += 2 + length
    return None


def _header(content: bytes) -> tuple[tuple[int, int], str]:
    """((width, height), format) as Pillow reads them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", Image.DecompressionBombWarning
            )  # our own cap is the caller's
            with Image.open(io.BytesIO(content), formats=FORMATS) as header:
                return header.size, header.format
    except Image.DecompressionBombError as error:
        raise ImageError("too_large", str(error)) from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many kinds on hostile headers
        raise ImageError("unreadable", "not an image that can be read") from error


def _opencv(content: bytes, reduce: int = 1) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), FLAGS | REDUCE[reduce])
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(str(error)) from error
        return None


def _salvage(content: bytes, kind: str, width: int, height: int) -> np.ndarray:
    """What is left of a file that OpenCV refuses: the missing end is filled in so that it decodes
    as usual.

    Each stage's pixels come from the same decoder then, whole or not. A progressive JPEG shows
    every row after a
    fraction of its bytes, only softer: it counts as whole.
    """
    if kind == "JPEG":
        image = _opencv(
            content + b"\xff\xd9"
        )  # libjpeg fills what is missing with grey, once it sees an end
        share = 0.0 if image is None else 1 - _grey_rows(image) / height
    elif kind == "PNG":
        repaired, share = _repair_png(content, width, height)
        image = _opencv(repaired) if share >= WHOLE else None
    elif kind == "BMP":
        expected = int.from_bytes(content[2:6], "little")
        share = min(1.0, len(content) / max(expected, 1))
        image = _opencv(content + bytes(expected - len(content))) if WHOLE <= share < 1 else None
    else:
        image, share = None, 1.0
    if share < WHOLE:
        raise ImageError("truncated", f"cut short or broken: {share:.0%} of the image is there")
    if image is None:
        raise ImageError("unreadable", "the image data is broken")
    return image


def _grey_rows(image: np.ndarray) -> int:
    """Rows at the bottom that are nothing but libjpeg's filling."""
    last = image[-1, -1]
    if tuple(last.tolist()) not in GREY:
        return 0
    filled = (image == last).all((1, 2))[::-1]
    return len(filled) if filled.all() else int(filled.argmin())


def _repair_png(content: bytes, width: int, height: int) -> tuple[bytes, float]:
    """The PNG with its data completed by zeros and checksums made anew, and the share of the data
    that was there."""
    chunks = _png_chunks(content)
    header = chunks.get(b"IHDR", b"")
    if len(header) != 13 or header[9] not in SAMPLES:
        return b"", 0.0
    bits = header[8] * SAMPLES[header[9]]

    def row_bytes(pixels: int) -> int:
        return 1 + (pixels * bits + 7) // 8

    if header[12]:  # interlaced: seven small images in a row
        sizes = [
            (-(-(height - top) // down), -(-(width - left) // across))
            for top, down, left, across in PASSES
        ]
        expected = sum(
            rows * row_bytes(columns) for rows, columns in sizes if rows > 0 and columns > 0
        )
    else:
        expected = height * row_bytes(width)
    if expected > 1100 * len(
        content
    ):  # deflate never packs more than 1,032 to one: nothing is allocated for a lie
        return b"", 0.0
    data = _inflate(chunks.get(b"IDAT", b""), expected)
    if not header[12]:
        filters = np.frombuffer(data, np.uint8)[:: row_bytes(width)]
        if (filters > 4).any():  # no such filter: from here on the data is broken
            data = data[: int((filters > 4).argmax()) * row_bytes(width)]
    share = len(data) / max(expected, 1)
    if share < WHOLE:
        return b"", share
    parts = [
        (b"IHDR", header),
        (b"PLTE", chunks.get(b"PLTE", b"")),
        (b"IDAT", zlib.compress(data + bytes(expected - len(data)), 1)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
        if body or name == b"IEND"
    ), share


def _png_chunks(content: bytes) -> dict[bytes, bytes]:
    """{type: the bodies of all its chunks, joined}, as far as the file goes; checksums are not
    looked at."""
    bodies: dict[bytes, list[bytes]] = {}
    place = 8
    while place + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, place)
        bodies.setdefault(name, []).append(content[place + 8 : place + 8 + length])
        place += 12 + length
    return {name: b"".join(parts) for name, parts in bodies.items()}


def _overruns(content: bytes) -> bool:
    """True where a chunk claims to end after the file does."""
    place = 8
    while place + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, place)
        place += 12 + length
        if name == b"IEND":
            break
    return place > len(content)


def _inflate(packed: bytes, most: int) -> bytes:
    """What can be unpacked of a zlib stream up to its end or its first error, at most `most`
    bytes."""
    stream, out = zlib.decompressobj(), bytearray()
    try:
        for place in range(
            0, len(packed), 512
        ):  # an error loses what its own piece would have given
            out += stream.decompress(packed[place : place + 512], most - len(out) + 1)
            if len(out) >= most or stream.eof:
                break
    except zlib.error:
        pass
    return bytes(out[:most])
