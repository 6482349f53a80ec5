"""Does a heat map lie on the object? Share of its mass, the pointing game, and overlap, against a
mask."""

from __future__ import annotations

import numpy as np

HALF = 128  # of a mask's 255: this and above is the object
NAMES = ("share", "pointing", "iou", "iou_area")


def heatmap_statistics(maps: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
    """Per image: how much of the map lies on the object.

    - share: of the map's mass inside the (soft) mask.
    - pointing: whether the map's maximum lies on the object (Zhang et al., IJCV 2018; without their
      15 px of tolerance, which is half of a small image).
    - iou: of the map above half of its maximum with the mask.
    - iou_area: of as many of the map's largest pixels as the mask has, so that a map's sharpness
      does not matter.

    Args:
        maps: (N, s, s) floats, not negative.
        masks: (N, s, s) uint8.

    Returns:
        {name of NAMES: (N,) float64 in 0..1}; nan where the map is empty, or nothing of the object
        is in the crop.
    """
    statistics = {name: np.full(len(maps), np.nan) for name in NAMES}
    for i, (heat, mask) in enumerate(zip(maps, masks, strict=True)):
        hard = mask >= HALF
        if not heat.any() or not hard.any():
            continue
        order = np.argsort(-heat, axis=None, kind="stable")
        largest = np.zeros(heat.size, bool)
        largest[order[: hard.sum()]] = True
        statistics["share"][i] = (heat * (mask / 255)).sum() / heat.sum()
        statistics["pointing"][i] = hard.flat[order[0]]
        statistics["iou"][i] = _iou(heat >= heat.max() / 2, hard)
        statistics["iou_area"][i] = _iou(largest.reshape(heat.shape), hard)
    return statistics


def chance(masks: np.ndarray) -> dict[str, float]:
    """Percent that uninformative maps would have: `share` and `pointing` of an even map (the masks'
    mean coverage), and `centre`, the pointing game of the image's centre."""
    hard = masks >= HALF
    hard = hard[hard.any((1, 2))]
    side = masks.shape[1] // 2
    even = 100 * float(hard.mean())
    return {"share": even, "pointing": even, "centre": 100 * float(hard[:, side, side].mean())}


def percent(statistics: dict[str, np.ndarray]) -> dict[str, float]:
    """Means in percent over the images that have a map, with the standard errors of the means as
    NAME_error, and how many images have none."""
    values = {}
    for name, column in statistics.items():
        known = 100 * column[~np.isnan(column)]
        several = len(known) > 1
        values[name] = float(known.mean()) if len(known) else float("nan")
        values[f"{name}_error"] = float(known.std(ddof=1) / len(known) ** 0.5) if several else 0.0
    values["without_map"] = int(np.isnan(statistics["share"]).sum())
    return values


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))
