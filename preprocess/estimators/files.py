"""Maps that exist on disk: true masks, or another tool's output, brought into a cache."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from data.sources.images import ImageError

VERSION = 1


def read_map(folder: str | os.PathLike, path: bytes) -> np.ndarray:
    """The map of image `path`, from FOLDER/<the image's relative path with .png>.

    Returns:
        float32 (h, w) in [0, 1], 1 = foreground.

    Raises:
        ImageError: "no_map" where there is no such file or it is no grey image.
    """
    file = Path(os.fspath(folder), os.fsdecode(path)).with_suffix(".png")
    found = cv2.imread(os.fspath(file), cv2.IMREAD_GRAYSCALE) if file.is_file() else None
    if found is None:
        raise ImageError("no_map", f"{file}: no map for this image")
    return found.astype(np.float32) / 255
