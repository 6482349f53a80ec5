"""Labelled images as crops: one folder a class, or tiny-imagenet's annotations."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from data.cli import UsageError
from data.resize import resize
from data.sources.images import decode, open_images

ANNOTATIONS = "val_annotations.txt"


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
    """Labelled images as crops, (s, s, 3) uint8: ROOT/CLASS/..., a folder, a tar or ROOT.tar; or
    tiny-imagenet's val/, whose labels are in val_annotations.txt.

    Attributes:
        classes: sorted names, or those that were given.
        labels: (N,) int64 places in `classes`.

    Args:
        crop: (image, size) -> the crop.

    Raises:
        UsageError: no such folder, no classes in it or a single one, or one that is not in
            `classes`. Items: ImageError.
    """

    def __init__(
        self,
        root: str,
        size: int,
        classes: list[str] | None = None,
        crop: Callable[[np.ndarray, int], np.ndarray] = centre_crop,
    ):
        self.root, self.size, self.crop = root, size, crop
        tar = f"{root}.tar"
        self.images = open_images(tar if os.path.exists(tar) and not os.path.exists(root) else root)
        self.paths = self.images.paths
        names = _labels(root, self.paths)
        self.classes = classes or [os.fsdecode(name) for name in sorted(set(names))]
        if classes is None and len(self.classes) < 2:  # whatever the network, it would be right
            raise UsageError(
                f"{root}: one class, {self.classes[0]}; give the folder that holds the class "
                "folders"
            )
        index = {os.fsencode(name): i for i, name in enumerate(self.classes)}
        unknown = sorted(set(names) - index.keys())
        if unknown:
            raise UsageError(
                f"{root}: class {os.fsdecode(unknown[0])} (of {len(unknown)}) is not one that the "
                "probe was trained on"
            )
        self.labels = np.array([index[name] for name in names])

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, i: int) -> np.ndarray:
        """Image i, (H, W, 3) uint8."""
        return decode(self.images.read(i))

    def __getitem__(self, i: int) -> np.ndarray:
        return self.crop(self.read(i), self.size)


def _labels(root: str, paths: np.ndarray) -> list[bytes]:
    """Each image's class: its first folder, or by tiny-imagenet's annotations, `name TAB class`."""
    file = os.path.join(root, ANNOTATIONS)
    if not os.path.isfile(file):
        if any(b"/" not in path for path in paths.tolist()):
            raise UsageError(
                f"{root}: needs one folder a class (ROOT/CLASS/image), to know the labels"
            )
        return [path.split(b"/", 1)[0] for path in paths.tolist()]
    with open(file, "rb") as lines:
        known = dict(line.split()[:2] for line in lines if len(line.split()) > 1)
    names = [known.get(os.path.basename(path), b"") for path in paths.tolist()]
    if b"" in names:
        raise UsageError(f"{file}: has no line for {os.fsdecode(paths[names.index(b'')])}")
    return names
