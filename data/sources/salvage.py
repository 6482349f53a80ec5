"""What is left of an image file that was cut short or broken on the way.

The missing end is filled in, so that the usual decoder makes the pixels: those of each stage are
equal then, whole or not.
"""

import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from data.sources.opencv import imdecode

WHOLE = 7 / 8  # a file cut by a few bytes is worth using, one cut by half is not
# what libjpeg fills missing blocks with, in RGB; the second in a CMYK file
GREY = ((128, 128, 128), (65, 65, 65))
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # PNG colour type -> samples a pixel
DEFLATE = 1100  # deflate packs 1,032 bytes into one at most


def salvage(content: bytes, kind: str, size: tuple[int, int]) -> tuple[np.ndarray | None, float]:
    """The image as far as it can be decoded, and the share of it that is there, 0..1.

    A progressive JPEG shows every row after a fraction of its bytes, only softer: it counts as
    whole.

    Args:
        kind: "JPEG", "PNG", "BMP"; another kind gives None and 1.
        size: (width, height) of the header.
    """
    if kind == "JPEG":
        image = imdecode(content + b"\xff\xd9")  # libjpeg fills what is missing before an end
        return image, 0.0 if image is None else 1 - _grey_rows(image) / size[1]
    if kind == "PNG":
        repaired, share = _repair_png(content, *size)
        return (imdecode(repaired) if share >= WHOLE else None), share
    if kind == "BMP":
        expected = int.from_bytes(content[2:6], "little")
        share = min(1.0, len(content) / max(expected, 1))
        padded = content + bytes(expected - len(content)) if WHOLE <= share < 1 else b""
        return (imdecode(padded) if padded else None), share
    return None, 1.0


def _grey_rows(image: np.ndarray) -> int:
    """Rows at the bottom that are nothing but libjpeg's filling."""
    last = image[-1, -1]
    if tuple(last.tolist()) not in GREY:
        return 0
    filled = (image == last).all((1, 2))[::-1]
    return len(filled) if filled.all() else int(filled.argmin())


def _repair_png(content: bytes, width: int, height: int) -> tuple[bytes, float]:
    """The PNG with its data completed by zeros and new checksums, and the share of data that was
    there."""
    chunks = defaultdict(bytearray)
    for name, body, _ in png_chunks(content):
        chunks[name] += body
    header = chunks[b"IHDR"]
    if len(header) != 13 or header[9] not in SAMPLES or header[12]:  # interlaced: no rows in order
        return b"", 0.0
    row = 1 + (width * header[8] * SAMPLES[header[9]] + 7) // 8  # bytes, with that of its filter
    expected = height * row
    if expected > DEFLATE * len(content):
        return b"", 0.0  # a size that the data cannot fill
    data = _inflate(chunks[b"IDAT"], expected)
    broken = np.frombuffer(data, np.uint8)[::row] > 4  # PNG has five filters
    if broken.any():
        data = data[: int(broken.argmax()) * row]
    share = len(data) / max(expected, 1)
    if share < WHOLE:
        return b"", share
    bodies = {
        b"IHDR": header,
        b"PLTE": chunks[b"PLTE"],
        b"IDAT": zlib.compress(data + bytes(expected - len(data)), 1),
    }
    whole = [_chunk(name, body) for name, body in bodies.items() if body]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*whole, _chunk(b"IEND", b"")]), share


def png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes, int]]:
    """(type, body, place of the chunk's end) up to the PNG's end, as far as the file goes; no
    checksum counts."""
    place, name = 8, b""
    while place + 8 <= len(content) and name != b"IEND":
        length, name = struct.unpack_from(">I4s", content, place)
        body = content[place + 8 : place + 8 + length]
        place += 12 + length
        yield name, body, place


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _inflate(packed: bytes, most: int) -> bytes:
    """What can be unpacked of a zlib stream up to its end or its first error, at most `most`
    bytes."""
    stream, out = zlib.decompressobj(), bytearray()
    try:
        for place in range(0, len(packed), 512):  # an error loses what its own piece would give
            out += stream.decompress(packed[place : place + 512], most - len(out) + 1)
            if len(out) >= most or stream.eof:
                break
    except zlib.error:
        pass
    return bytes(out[:most])
