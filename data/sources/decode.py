"""Decode one image file: the same way in every stage, so that mask and image always agree."""

import contextlib
import io
import struct

import cv2
import numpy as np
from PIL import Image

from data.sources.opencv import imdecode, silence
from data.sources.salvage import WHOLE, png_chunks, salvage

MAX_PIXELS = 100_000_000  # 300 MB of RGB; the largest ImageNet image has 24 Mpx
# by content, not by name: ImageNet has a PNG named .JPEG
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")
ORIENTATION = 0x0112  # EXIF's tag
PNG = b"\x89PNG\r\n\x1a\n"
# keywords of a PNG's texts that may hold the orientation
TURNING = b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"
SCALED = "PPM of any scale"  # its largest level is not 255 or 65535, or its levels are text


class ImageError(Exception):
    """An image that cannot be used; `reason` is one of data.cache.shard.STATUS's names."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def decode(content: bytes, max_pixels: int = MAX_PIXELS, reduce: int = 1) -> np.ndarray:
    """Decode an image file's bytes to (H, W, 3) uint8 RGB.

    EXIF orientation is ignored, as torchvision's ImageFolder does; alpha is dropped; grey becomes
    RGB; 16 bits become 8. A file cut short or broken on the way is used where at least 7/8 of its
    rows (JPEG) or its data (PNG, BMP) is there.

    Args:
        reduce: 1, 2, 4 or 8: a picture of ceil(H / reduce) x ceil(W / reduce), which costs less
            than the whole one.

    Raises:
        ImageError: "empty", "unreadable", "truncated", or "too_large" (told from the header, before
            memory is taken).
        MemoryError: the machine has not the memory for it now.
    """
    (width, height), kind = _header(content)
    if width * height > max_pixels:
        raise ImageError("too_large", f"{width}x{height} pixels, more than the cap of {max_pixels}")
    image = None
    if kind == SCALED:
        image = _scaled(content)
    # OpenCV would take as much memory as a PNG's chunk claims
    elif kind != "PNG" or all(end <= len(content) for _, _, end in png_chunks(content)):
        image = imdecode(content, reduce if kind == "JPEG" else 1)
    if image is None:
        image, share = salvage(content, kind, (width, height))
        if share < WHOLE:
            raise ImageError("truncated", f"cut short or broken: {share:.0%} of the image is there")
        if image is None:
            raise ImageError("unreadable", "the image data is broken")
    small = -(-width // reduce), -(-height // reduce)
    if reduce > 1 and image.shape[:2] == (height, width):
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    if image.shape[1::-1] != small:
        raise ImageError("unreadable", "the header and the data disagree on the size")
    return image


def image_size(content: bytes) -> tuple[int, int]:
    """(width, height) from an image file's header. ImageError: "empty", "unreadable" or
    "too_large"."""
    return _header(content)[0]


def orientation(content: bytes) -> int:
    """An image file's EXIF orientation, 2..8 where it is not displayed as it is stored, else 1."""
    if content[:8] == PNG and not any(  # Pillow decodes a whole PNG to look for it
        name == b"eXIf" or body.startswith(TURNING) for name, body, _ in png_chunks(content)
    ):
        return 1
    with contextlib.suppress(Exception), silence(), Image.open(io.BytesIO(content)) as picture:
        value = picture.getexif().get(ORIENTATION)
        return value if value in range(2, 9) else 1
    return 1


def _header(content: bytes) -> tuple[tuple[int, int], str]:
    """((width, height), format). A PNG's is read here: Pillow refuses those with much text."""
    if not content:
        raise ImageError("empty", "the file is empty")
    if content[:8] == PNG and content[12:16] == b"IHDR" and len(content) > 32:
        return struct.unpack_from(">II", content, 16), "PNG"
    webp = content[:4] == b"RIFF" and content[8:12] == b"WEBP"
    if webp and len(content) < 8 + int.from_bytes(content[4:8], "little"):
        raise ImageError("truncated", "the WebP file is cut short")  # no part of it can be decoded
    try:
        with silence(), Image.open(io.BytesIO(content), formats=FORMATS) as header:
            # MPO is a JPEG with others behind it
            kind = "JPEG" if header.format == "MPO" else str(header.format)
            if kind == "PPM" and not _opencv_reads(header.tile[0]):
                kind = SCALED
            return header.size, kind
    except Image.DecompressionBombError as error:
        raise ImageError("too_large", str(error)) from error
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many kinds on hostile headers
        raise ImageError("unreadable", "not an image that can be read") from error


def _opencv_reads(tile: tuple) -> bool:
    """Whether OpenCV reads a PPM as it is meant: it takes all levels as of 255 or 65535."""
    decoder, *_, levels = tile
    return decoder == "raw" or (decoder, levels) == ("ppm", ("RGB", 65535))


def _scaled(content: bytes) -> np.ndarray | None:
    """A PPM's pixels by Pillow; None where it refuses the file."""
    try:
        with silence(), Image.open(io.BytesIO(content)) as picture:
            if picture.mode == "I":  # 16 bits
                return np.dstack([(np.asarray(picture) >> 8).astype(np.uint8)] * 3)
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError):
        return None
