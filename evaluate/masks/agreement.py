"""How well the masks of one cache agree with those of another."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from data.cache.reader import Cache


def mask_agreement(masks: Cache, truth: Cache) -> dict[str, float]:
    """Mean absolute error (0..1) and mean IoU at half of `masks` against true ones, over the images
    of both."""
    rows = truth.require(masks.paths)
    return agreement((masks.mask(i), truth.mask(row)) for i, row in enumerate(rows.tolist()))


def agreement(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """ "mae" and "iou" over pairs of a mask and the true one, both (S, S) uint8; two empty ones
    overlap wholly."""
    errors, overlaps = [], []
    for mine, right in pairs:
        errors.append(np.abs(mine.astype(np.int16) - right).mean() / 255)
        union = ((mine >= 128) | (right >= 128)).sum()
        overlaps.append(((mine >= 128) & (right >= 128)).sum() / union if union else 1.0)
    return {"mae": float(np.mean(errors)), "iou": float(np.mean(overlaps))}
