"""Images by parts: the crop as the network sees it, the object alone, the background alone, and the
mask."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from data.cache.reader import Cache
from data.cli import UsageError
from data.resize import resize
from data.sources.images import ImageError
from data.sources.labelled import centre_square
from preprocess.estimators.files import map_file, read_map
from train.backgrounds import remove
from train.crop import Box, crop_mask
from train.features import Labelled
from train.photometric import MEAN

GREY = np.rint(255 * np.array(MEAN)).astype(np.float32)  # ImageNet's mean: zero to the network


def find_masks(source: str, images: Labelled, rows: np.ndarray) -> list[np.ndarray | None]:
    """The masks of some images of DATA/SPLIT, from a cache or from a folder.

    Args:
        source: a cache of DATA/SPLIT or of DATA (its paths begin with SPLIT/); or a folder with
            PATH.png or SPLIT/PATH.png, as `--estimator files` reads them.

    Returns:
        (S, S) or (H, W) uint8 of each whole image; None where there is no usable one.

    Raises:
        UsageError: no such folder, or a file that is no mask.
    """
    if not os.path.isdir(source):
        raise UsageError(f"{source}: no such mask cache or folder of masks")
    split = os.path.basename(images.root.rstrip("/"))
    if not os.path.exists(os.path.join(source, "cache.json")):
        folders = (os.path.join(source, split), source)
        return [_read_mask(folders, images, row) for row in rows.tolist()]
    cache, paths = Cache(source), images.paths[rows]
    below = np.array([os.fsencode(split) + b"/" + path for path in paths.tolist()])
    places = cache.find(paths)
    places = np.where(places < 0, cache.find(below), places)
    usable = (places >= 0) & (cache.status[places] == 0)
    cache.note_other_files(places[usable], images.images.take(rows[usable]))
    return [cache.mask(place) if usable[i] else None for i, place in enumerate(places.tolist())]


def _read_mask(folders: tuple[str, ...], images: Labelled, row: int) -> np.ndarray | None:
    path = images.paths[row]
    folder = next((f for f in folders if os.path.exists(map_file(f, path))), None)
    if folder is None:
        return None
    try:
        return np.rint(255 * read_map(folder, path, images.images.read(row))).astype(np.uint8)
    except ImageError as error:
        raise UsageError(f"mask: {error}") from error


@dataclass(frozen=True)
class Split:
    """A labelled folder.

    Attributes:
        rows: (M,) int, its images that are used.
        masks: of each of them, of the whole image; None: not known.
    """

    images: Labelled
    rows: np.ndarray
    masks: list[np.ndarray] | None

    @property
    def labels(self) -> np.ndarray:
        """(M,) int64 classes."""
        return self.images.labels[self.rows]


@dataclass(frozen=True)
class Parts(Dataset):
    """A split's images at a network's size, whole or in part, as evaluate.features takes them.

    Attributes:
        size: side of the crops in pixels.
        cut: "image" as it is; "object" on the mean colour; "background" with the object filled in
            from around it. The latter two need masks.
    """

    split: Split
    size: int
    cut: str = "image"

    @property
    def root(self) -> str:
        return f"{self.split.images.root} {self.cut}"

    def __len__(self) -> int:
        return len(self.split.rows)

    def __getitem__(self, i: int) -> np.ndarray:
        """(s, s, 3) uint8."""
        images = self.split.images
        image = images.read(int(self.split.rows[i]))
        crop = np.ascontiguousarray(images.crop(image, self.size))
        if self.cut == "image":
            return crop
        mask, box = _square(self.split.masks[i]), _box(image)
        if self.cut == "background":
            return remove(image, mask, crop, box)
        alpha = crop_mask(mask, box, self.size)[..., None].astype(np.float32) / 255
        return np.rint(alpha * crop + (1 - alpha) * GREY).astype(np.uint8)

    def __getitems__(self, rows: list[int]) -> torch.Tensor:
        return torch.from_numpy(np.stack([self[row] for row in rows]))

    def crops_of_masks(self) -> np.ndarray:
        """(N, s, s) uint8: the masks as the crops show them."""
        boxes = (_box(self.split.images.read(int(row))) for row in self.split.rows)
        pairs = zip(self.split.masks, boxes, strict=True)
        return np.stack([crop_mask(_square(mask), box, self.size) for mask, box in pairs])


def _square(mask: np.ndarray) -> np.ndarray:
    """A mask of any sides squashed to a square one, as a cache holds it."""
    side = max(mask.shape)
    return np.ascontiguousarray(resize(mask, side, side))


def _box(image: np.ndarray) -> Box:
    height, width = image.shape[:2]
    left, top, side = centre_square(height, width)
    return Box(left, top, side, side, width, height)
