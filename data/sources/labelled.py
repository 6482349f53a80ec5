"""A folder of labelled images, one folder a class, as crops."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from data.cli import UsageError
from data.resize import resize
from data.sources.images import class_names, decode, open_images


def centre_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The test crop: short side to size * 256 / 224, then the centre (MoCo's protocol at any size).

    Images of 64 px or less are resized whole: cutting their border away would cut objects.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (size, size, 3) uint8.
    """
    left, top, side = centre_square(*image.shape[:2])
    return resize(image[top : top + side, left : left + side], size, size)


def centre_square(height: int, width: int) -> tuple[int, int, int]:
    """Left, top and side of what centre_crop shows of an image, in its pixels."""
    short = min(height, width)
    side = short if short <= 64 else max(1, round(short * 224 / 256))
    return (width - side) // 2, (height - side) // 2, side


def whole_image(image: np.ndarray, size: int) -> np.ndarray:
    """The whole image at (size, size, 3) uint8, for data sets that come cropped."""
    return resize(image, size, size)


class Labelled:
    """ROOT/CLASS/... (a folder, a tar, or ROOT.tar): crops, (s, s, 3) uint8, and labels: places in
    `classes`, or in its own sorted names.

    Args:
        crop: (image, size) -> the crop.

    Raises:
        UsageError: no such folder, no classes in it, or one that is not in `classes`. Items:
            ImageError.
    """

    def __init__(
        self,
        root: str,
        size: int,
        classes: list[str] | None = None,
        crop: Callable[[np.ndarray, int], np.ndarray] = centre_crop,
    ):
        self.root, self.size, self.crop = root, size, crop
        self.images = open_images(
            f"{root}.tar" if not os.path.exists(root) and os.path.exists(f"{root}.tar") else root
        )
        self.paths = self.images.paths
        found = class_names(self.paths)
        if not found or any(b"/" not in p for p in self.paths.tolist()):
            raise UsageError(
                f"{root}: needs one folder a class (ROOT/CLASS/image), to know the labels"
            )
        self.classes = classes or found
        unknown = sorted(set(found) - set(self.classes))
        if unknown:
            raise UsageError(
                f"{root}: class {unknown[0]} (of {len(unknown)}) is not one that the probe was trained on"
            )
        index = {os.fsencode(name): i for i, name in enumerate(self.classes)}
        self.labels = np.array([index[p.split(b"/", 1)[0]] for p in self.paths.tolist()])

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, i: int) -> np.ndarray:
        """Image i, (H, W, 3) uint8."""
        return decode(self.images.read(i))

    def __getitem__(self, i: int) -> np.ndarray:
        return self.crop(self.read(i), self.size)
