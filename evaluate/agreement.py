"""How well the masks of one cache agree with those of another."""

from __future__ import annotations

import numpy as np

from data.cache import Cache


def mask_agreement(masks: Cache, truth: Cache) -> dict[str, float]:
    """Mean absolute error (0..1) and mean IoU at half of `masks` against true ones, over the images of both."""
    rows = truth.require(masks.paths)
    errors, overlaps = [], []
    for i, row in enumerate(rows.tolist()):
        a, b = masks.mask(i), truth.mask(row)
        errors.append(np.abs(a.astype(np.int16) - b).mean() / 255)
        union = ((a >= 128) | (b >= 128)).sum()
        overlaps.append(((a >= 128) & (b >= 128)).sum() / union if union else 1.0)
    return {"mae": float(np.mean(errors)), "iou": float(np.mean(overlaps))}
