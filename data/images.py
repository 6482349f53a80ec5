"""List a folder of images and decode one image: the same way in every stage, so that mask and image always agree."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from data.cli import UsageError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
MAX_PIXELS = 100_000_000  # 300 MB of RGB; the largest ImageNet image has 24 Mpx


class ImageError(Exception):
    """An image that cannot be used; `reason` is one of data.cache.STATUS's names."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def list_images(root: str | os.PathLike) -> np.ndarray:
    """Relative paths of all images under `root`, sorted by their UTF-8 bytes.

    Folders are searched to any depth and links are followed, as torchvision's ImageFolder does.

    Returns:
        (N,) numpy array of fixed-length bytes (UTF-8, forward slashes): a million paths without a Python list kept.

    Raises:
        UsageError: no such folder, or no image in it.
    """
    root = os.fspath(root)
    if not os.path.isdir(root):
        raise UsageError(f"{root}: no such folder of images")
    found: list[bytes] = []
    _walk(root, b"", found, set())
    if not found:
        raise UsageError(f"{root}: no images ({', '.join(EXTENSIONS)}) in this folder or below it")
    paths = np.array(found, dtype=f"S{max(map(len, found))}")
    paths.sort()
    return paths


def _walk(folder: str, prefix: bytes, found: list[bytes], parents: set[tuple[int, int]]) -> None:
    stat = os.stat(folder)
    here = (stat.st_dev, stat.st_ino)
    if here in parents:  # a link back to one of its own parents would never end
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if entry.is_dir():
                _walk(entry.path, prefix + name + b"/", found, parents | {here})
            elif entry.name.lower().endswith(EXTENSIONS):
                found.append(prefix + name)


def class_names(paths: np.ndarray) -> list[str]:
    """The sorted class names of (N,) byte paths like b"class/....jpg": the first folder of each."""
    return sorted({os.fsdecode(p.split(b"/", 1)[0]) for p in paths.tolist() if b"/" in p})


def read_bytes(root: str | os.PathLike, path: bytes) -> bytes:
    """The file's bytes; ImageError("missing") where it cannot be read."""
    try:
        return Path(os.fspath(root), os.fsdecode(path)).read_bytes()
    except OSError as error:
        raise ImageError("missing", f"{os.fsdecode(path)}: {error.strerror}") from error


def decode(content: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode an image file's bytes to (H, W, 3) uint8 RGB.

    EXIF orientation is ignored, as torchvision's ImageFolder does; alpha is dropped; grey becomes RGB.

    Raises:
        ImageError: "empty", "unreadable", or "too_large" (told from the header, before memory is taken).
    """
    if not content:
        raise ImageError("empty", "the file is empty")
    try:
        # Pillow reads the header only, so a decompression bomb is refused before OpenCV would allocate it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own cap is below
            with Image.open(io.BytesIO(content)) as header:
                width, height = header.size
    except Image.DecompressionBombError as error:
        raise ImageError("too_large", str(error)) from error
    except Exception as error:  # Pillow raises many kinds on hostile headers
        raise ImageError("unreadable", "not an image that can be read") from error
    if width * height > max_pixels:
        raise ImageError("too_large", f"{width}x{height} pixels, more than the cap of {max_pixels}")
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ImageError("unreadable", "the image data is broken or cut short")
    return image
