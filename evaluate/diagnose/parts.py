"""Images by parts: the crop as the network sees it, the object alone, the background alone, and the
mask."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from data.cache.reader import Cache
from data.cli import UsageError
from data.sources.labelled import centre_square
from evaluate.features import Labelled
from train.backgrounds import remove
from train.copy_paste import Box, crop_mask
from train.photometric import MEAN

GREY = np.rint(255 * np.array(MEAN)).astype(np.float32)  # ImageNet's mean: zero to the network


class Masks:
    """Masks of a split's images by path, from a cache or from a folder of PNGs; the same whatever
    the source.

    Args:
        source: a cache of DATA/SPLIT or of DATA (its paths begin with SPLIT/); or a folder with
            PATH.png or SPLIT/PATH.png.
        split: the split's name.

    Raises:
        UsageError: no such folder.
    """

    def __init__(self, source: str, split: str):
        self.source, self.split = source, split
        if not os.path.isdir(source):
            raise UsageError(f"{source}: no such mask cache or folder of masks")
        self.cache = Cache(source) if Path(source, "cache.json").exists() else None

    def find(self, paths: np.ndarray) -> list[np.ndarray | None]:
        """The (S, S) or (H, W) uint8 mask of each of `paths`, of the whole image; None where there
        is no usable one."""
        if self.cache is None:
            return [self._file(os.fsdecode(path)) for path in paths.tolist()]
        rows = self.cache.find(paths)
        inner = self.cache.find(
            np.array([os.fsencode(self.split) + b"/" + p for p in paths.tolist()])
        )
        rows = np.where(rows < 0, inner, rows)
        return [
            self.cache.mask(row) if row >= 0 and self.cache.status[row] == 0 else None
            for row in rows.tolist()
        ]

    def _file(self, path: str) -> np.ndarray | None:
        name = os.path.splitext(path)[0] + ".png"
        for file in (os.path.join(self.source, self.split, name), os.path.join(self.source, name)):
            if os.path.exists(file):
                mask = cv2.imread(file, cv2.IMREAD_GRAYSCALE)
                if mask is None:
                    raise UsageError(f"{file}: not a mask that can be read")
                return mask
        return None


class Parts(Dataset):
    """Some of a split's images at a network's size, whole or in part; a data set as
    evaluate.features takes it.

    Args:
        images: the split.  rows: of its images.  masks: of each of `rows`, as Masks.find gives
            them, none of them None (not needed for "image").
        cut: "image" as it is; "object" on the mean colour; "background" with the object filled in
            from around it.
    """

    def __init__(
        self,
        images: Labelled,
        rows: np.ndarray,
        masks: list[np.ndarray] | None = None,
        cut: str = "image",
    ):
        self.images, self.rows, self.masks, self.cut = images, rows, masks, cut
        self.root, self.size = f"{images.root} {cut}", images.size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> np.ndarray:
        """(s, s, 3) uint8."""
        image = self.images.read(int(self.rows[i]))
        crop = np.ascontiguousarray(self.images.crop(image, self.size))
        if self.cut == "image":
            return crop
        box = _box(image)
        mask = square(self.masks[i])
        if self.cut == "background":
            return remove(image, mask, crop, box)
        alpha = crop_mask(mask, box, self.size)[..., None].astype(np.float32) / 255
        return np.rint(alpha * crop + (1 - alpha) * GREY).astype(np.uint8)

    def __getitems__(self, rows: list[int]) -> torch.Tensor:
        return torch.from_numpy(np.stack([self[row] for row in rows]))

    def crops_of_masks(self) -> np.ndarray:
        """(N, s, s) uint8: the masks as the crops show them."""
        return np.stack(
            [
                crop_mask(square(mask), _box(self.images.read(int(row))), self.size)
                for row, mask in zip(self.rows, self.masks, strict=True)
            ]
        )


def square(mask: np.ndarray) -> np.ndarray:
    """A mask of any sides squashed to a square one, as a cache holds it."""
    side = max(mask.shape)
    return np.ascontiguousarray(
        mask
        if mask.shape == (side, side)
        else cv2.resize(mask, (side, side), interpolation=cv2.INTER_LINEAR)
    )


def _box(image: np.ndarray) -> Box:
    height, width = image.shape[:2]
    left, top, side = centre_square(height, width)
    return Box(left, top, side, side, width, height)
