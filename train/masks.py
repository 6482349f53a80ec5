"""The run's masks: which image may be pasted by which mask, and the controls of DiLo."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from data.cache.reader import LOOKED, Cache, evenly_spaced
from data.cli import UsageError
from train.config import Config
from train.streams import CONTROL, stream

COVERAGE = "quality/coverage"  # the cache's column: the share of its image that a mask covers


@dataclass(frozen=True)
class Masks:
    """Masks by the image's place in the run's list.

    An image is never pasted where its mask failed, or covers a share of the image outside of
    `limits`: a view of nothing but background teaches nothing, and one whose mask covers everything
    would not change.

    Attributes:
        rows: (N,) int64, the row of each image's mask in the cache.
        ellipse: control; instead of each mask, a centred ellipse of the same coverage.
        limits: a mask is used where its coverage (mean, 0..1) is above the first and below the
            second.
    """

    cache: Cache
    rows: np.ndarray
    ellipse: bool = False
    limits: tuple[float, float] = (0, 1)

    def __getitem__(self, index: int) -> np.ndarray | None:
        """(S, S) uint8 of the whole image, or None: never pasted."""
        row = self.rows[index]
        if self.cache.status[row]:
            return None
        mask = self.cache.mask(row)
        if not self.limits[0] < cv2.sumElems(mask)[0] / (255 * mask.size) < self.limits[1]:
            return None
        return ellipse_like(mask) if self.ellipse else mask

    def digest(self) -> str:
        """16 hex digits of what the masks show: the coverage of all, and the pixels of LOOKED of
        them; to read every mask would take minutes."""
        rows = np.unique(self.rows)
        hashed = hashlib.blake2b(self.cache.column(COVERAGE)[rows].tobytes(), digest_size=8)
        for row in rows[evenly_spaced(len(rows), LOOKED)].tolist():
            hashed.update(self.cache.mask(row))
        return hashed.hexdigest()


def count_usable(masks: Masks, name: str) -> str:
    """How many of a run's images can be pasted, in words; from the cache's columns.

    Args:
        name: of the cache.

    Raises:
        UsageError: none.
    """
    rows, (low, high) = masks.rows, masks.limits
    coverage = masks.cache.column(COVERAGE)[rows[masks.cache.status[rows] == 0]]
    small, large = (coverage <= low).sum(), (coverage >= high).sum()
    usable = len(coverage) - small - large
    why = (
        f"{len(rows) - len(coverage):,} have no mask, {small:,} cover at most {low:g} of their "
        f"image, {large:,} at least {high:g}"
    )
    if not usable:
        raise UsageError(
            f"{name}: none of the {len(rows):,} images can be pasted: {why}; look at its masks, or "
            "train without (--masks none)"
        )
    return f"{usable:,} of {len(rows):,} images can be pasted ({why})"


def make_masks(config: Config, cache: Cache, rows: np.ndarray) -> Masks:
    """The configured masks.

    Raises:
        UsageError: control `truth` with estimated masks.
    """
    control, estimator = config.paste.control, cache.identity["estimator"]
    if control == "truth" and estimator != "files":
        raise UsageError(
            f"--control truth: {config.masks} holds masks estimated by {estimator}, not true ones; "
            "make a cache of true masks with `python -m preprocess ... --estimator files --maps "
            "FOLDER`"
        )
    if control == "shuffled":
        rows = shuffled_rows(rows, config.seed)
    return Masks(cache, rows, control == "ellipse", config.paste.mask_coverage)


def shuffled_rows(rows: np.ndarray, seed: int) -> np.ndarray:
    """Control: every image gets another image's mask, always the same one, and none its own."""
    order = stream(CONTROL, seed).permutation(len(rows))
    return rows[np.roll(order, 1)[np.argsort(order)]]


def ellipse_like(mask: np.ndarray) -> np.ndarray:
    """Control: a centred ellipse with the mask's coverage and the image's aspect, cut by the image
    where it is larger.

    In the squashed mask that is the disc of the pixels nearest to the centre, as many as the mask's
    values sum to; the last, fractional one takes the rest, so that the sum is the mask's exactly.

    Args:
        mask: (S, S) uint8.

    Returns:
        (S, S) uint8, 255 within.
    """
    whole, rest = divmod(int(cv2.sumElems(mask)[0]), 255)
    rank = _from_centre(mask.shape[0])
    disc = (rank < whole).astype(np.uint8) * np.uint8(255)
    disc[rank == whole] = rest
    return disc


@lru_cache(2)
def _from_centre(side: int) -> np.ndarray:
    """(side, side) int32: each pixel's place in the order of distance from the centre; of equals,
    by angle."""
    at = np.arange(side) - (side - 1) / 2
    distance, angle = np.hypot(at[:, None], at), np.arctan2(at[:, None], at)
    rank = np.empty(side * side, np.int32)
    rank[np.lexsort((angle.ravel(), distance.ravel().round(6)))] = np.arange(side * side)
    return rank.reshape(side, side)
