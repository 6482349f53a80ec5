"""A folder of labelled images, one folder a class, as centre crops."""

from __future__ import annotations

import os

import cv2
import numpy as np

from data.cli import UsageError
from data.images import class_names, decode, open_images


class Labelled:
    """ROOT/CLASS/... (a folder, a tar, or ROOT.tar): centre crops, (s, s, 3) uint8, and labels: places in `classes`, or
    in its own sorted names."""

    def __init__(self, root: str, size: int, classes: list[str] | None = None):
        self.size = size
        self.images = open_images(f"{root}.tar" if not os.path.exists(root) and os.path.exists(f"{root}.tar") else root)
        self.paths = self.images.paths
        found = class_names(self.paths)
        if not found or any(b"/" not in p for p in self.paths.tolist()):
            raise UsageError(f"{root}: needs one folder a class (ROOT/CLASS/image), to know the labels")
        self.classes = classes or found
        unknown = sorted(set(found) - set(self.classes))
        if unknown:
            raise UsageError(f"{root}: class {unknown[0]} (of {len(unknown)}) is not one that the probe was trained on")
        index = {os.fsencode(name): i for i, name in enumerate(self.classes)}
        self.labels = np.array([index[p.split(b"/", 1)[0]] for p in self.paths.tolist()])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> np.ndarray:
        return centre_crop(decode(self.images.read(i)), self.size)


def centre_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The test crop: short side to size * 256 / 224, then the centre (MoCo's protocol at any size).

    Images of 64 px or less are resized whole: cutting their border away would cut objects.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (size, size, 3) uint8.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    side = short if short <= 64 else max(1, round(short * 224 / 256))
    top, left = (height - side) // 2, (width - side) // 2
    crop = image[top:top + side, left:left + side]
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA if side > size else cv2.INTER_LINEAR)
