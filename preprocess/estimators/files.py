"""Maps that exist on disk: true masks, or another tool's output, brought into a cache."""

from __future__ import annotations

import os

import cv2
import numpy as np

from data.sources.images import ImageError

VERSION = 1


def map_file(folder: str | os.PathLike, path: bytes) -> str:
    """The file of image `path`'s map: FOLDER/<the image's relative path with .png>."""
    stem, _ = os.path.splitext(os.fsdecode(path))
    return os.path.join(folder, f"{stem}.png")


def read_map(folder: str | os.PathLike, path: bytes) -> np.ndarray:
    """The map of image `path`, see map_file.

    Returns:
        float32 (h, w) in [0, 1], 1 = foreground.

    Raises:
        ImageError: "no_map" where there is no such file or it is no grey image.
    """
    file = map_file(folder, path)
    saliency = cv2.imread(file, cv2.IMREAD_GRAYSCALE) if os.path.isfile(file) else None
    if saliency is None:
        raise ImageError("no_map", f"{file}: no map for this image")
    return saliency.astype(np.float32) / 255
