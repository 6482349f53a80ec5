"""How well masks agree."""

from collections.abc import Iterable

import numpy as np

from data.cache.reader import Cache

HALF = 128  # of 255: this and above is foreground


def mask_agreement(masks: Cache, truth: Cache) -> dict[str, float]:
    """`agreement` of the masks of one cache with another's, over the images of the first."""
    rows = truth.require(masks.paths).tolist()
    return agreement((masks.mask(i), truth.mask(row)) for i, row in enumerate(rows))


def agreement(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Mean absolute error ("mae", 0..1) and mean IoU at half ("iou") of pairs of masks.

    Args:
        pairs: of (S, S) uint8; two empty ones overlap wholly.
    """
    errors, overlaps = [], []
    for mask, truth in pairs:
        errors.append(np.abs(mask.astype(np.int16) - truth).mean() / 255)
        union = np.count_nonzero((mask >= HALF) | (truth >= HALF))
        both = np.count_nonzero((mask >= HALF) & (truth >= HALF))
        overlaps.append(both / union if union else 1.0)
    return {"mae": float(np.mean(errors)), "iou": float(np.mean(overlaps))}
