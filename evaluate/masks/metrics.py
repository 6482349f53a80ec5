"""Metrics of saliency maps against binary truth, held to the numbers of the field's reference
(pysodmetrics).

Every map is 8-bit and min-max normalised on its own before it is scored, as the reference does.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

BETA2 = 0.3  # weight of recall against precision (Achanta et al., CVPR 2009)
LEVELS = 256
TINY = np.spacing(1)
TITLES = {
    "mae": "MAE",
    "max_f_a": "maxF(a)",
    "max_f_b": "maxF(b)",
    "mean_f": "mean F",
    "adaptive_f": "adaptive F",
    "weighted_f": "weighted F",
    "s": "S",
    "mean_e": "mean E",
    "max_e": "max E",
    "adaptive_e": "adaptive E",
    "iou": "IoU",
    "adaptive_iou": "adaptive IoU",
    "max_iou": "max IoU",
    "ms": "ms/image",
}
Nearest = tuple[np.ndarray, np.ndarray]


class Scores(NamedTuple):
    """One map's scores, all in [0, 1]: numbers, and the arrays of the map cut at 255 down to 0
    (CURVE), at twice its mean (ADAPTIVE) and above half (HALF), (258,) float64 each."""

    mae: float
    s: float
    weighted_f: float
    precision: np.ndarray
    recall: np.ndarray
    f: np.ndarray
    e: np.ndarray
    iou: np.ndarray


CURVE, ADAPTIVE, HALF = slice(LEVELS), LEVELS, LEVELS + 1


def score(saliency: np.ndarray, truth: np.ndarray, nearest: Nearest | None = None) -> Scores:
    """Score one (H, W) uint8 map against (H, W) bool truth.

    Args:
        nearest: nearest_foreground(truth), where several maps of one image are scored: it takes
            most of the time.
    """
    values = saliency / 255
    low, high = values.min(), values.max()
    values = (values - low) / (high - low) if high > low else values
    inside, outside = _counts(values, truth), _counts(values, ~truth)
    positives = int(truth.sum())
    precision = inside / np.maximum(inside + outside, 1)
    recall = inside / max(positives, 1)
    return Scores(
        mae=float(np.abs(values - truth).mean()),
        s=s_measure(values, truth),
        weighted_f=weighted_f(values, truth, nearest),
        precision=precision,
        recall=recall,
        f=f_measure(precision, recall),
        e=_e_measure(inside, outside, positives, truth.size),
        iou=inside / np.maximum(positives + outside, 1),
    )


def _counts(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """(258,) int: how many pixels of `where` each of the binary maps has; see Scores."""
    levels = (values[where] * 255).astype(np.uint8)
    curve = np.bincount(levels, minlength=LEVELS)[::-1].cumsum()
    adaptive = (values[where] >= min(2 * values.mean(), 1)).sum()
    return np.append(curve, (adaptive, (values[where] > 0.5).sum()))


def summarise(scores: Sequence[Scores]) -> dict[str, float]:
    """Means over a data set. `max_f_a` is the maximum of the mean per-image F curve, `max_f_b` F of
    the mean precision and recall; `mean_f` and `mean_e` are means over images and thresholds; `iou`
    is of the mask above half of the map's range, `adaptive_iou` of the one above twice its mean,
    `max_iou` the maximum of the mean curve."""
    mean = _mean(scores)
    values = {"mae": mean.mae, "s": mean.s, "weighted_f": mean.weighted_f}
    for name, array in (("f", mean.f), ("e", mean.e), ("iou", mean.iou)):
        values[f"max_{name}"] = array[CURVE].max()
        values[f"mean_{name}"] = array[CURVE].mean()
        values[f"adaptive_{name}"] = array[ADAPTIVE]
    values["max_f_a"] = values.pop("max_f")
    values["max_f_b"] = f_measure(mean.precision[CURVE], mean.recall[CURVE]).max()
    values["iou"] = mean.iou[HALF]
    return {name: float(values[name]) for name in TITLES if name in values}


def curves(scores: Sequence[Scores]) -> dict[str, list[float]]:
    """Mean curves over a data set: `precision`, `recall`, `f`, `e` and `iou`, 256 values each, at
    `threshold` 255 to 0 of the map's own range; rounded to 6 decimals for a JSON."""
    mean = _mean(scores)
    names = ("precision", "recall", "f", "e", "iou")
    rounded = {name: np.round(getattr(mean, name)[CURVE], 6).tolist() for name in names}
    return {"threshold": list(range(LEVELS - 1, -1, -1)), **rounded}


def _mean(scores: Sequence[Scores]) -> Scores:
    return Scores(*(np.mean(values, 0) for values in zip(*scores, strict=True)))


def f_measure(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """(1 + β²) P R / (β² P + R) with β² = 0.3; 0 where both are 0."""
    below = BETA2 * precision + recall
    return (1 + BETA2) * precision * recall / np.where(below > 0, below, 1)


def nearest_foreground(truth: np.ndarray) -> Nearest:
    """Of an (H, W) bool truth: the distance to the nearest foreground pixel (H, W) float64, its
    place (2, H, W) int."""
    return distance_transform_edt(~truth, return_indices=True)


def weighted_f(values: np.ndarray, truth: np.ndarray, nearest: Nearest | None = None) -> float:
    """Weighted F-measure, β = 1 (Margolin, Zelnik-Manor and Tal, CVPR 2014, sections 3 and 4).

    An error on the object weighs less where its neighbours are right (a 7 x 7 Gaussian, σ 5); one
    on the background weighs more the farther it is from the object, up to twice as much, half the
    way at 5 pixels.

    Args:
        values: (H, W) float64 in [0, 1].  truth: (H, W) bool.  nearest: as for score.
    """
    if not truth.any():
        return 0.0
    distance, place = nearest_foreground(truth) if nearest is None else nearest
    error = np.abs(values - truth)
    # the background takes the errors of the object's edge into the smoothing
    smooth = cv2.GaussianBlur(error[tuple(place)], (7, 7), 5, borderType=cv2.BORDER_CONSTANT)
    error = np.where(truth, np.minimum(error, smooth), error * (2 - np.exp2(-distance / 5)))
    missed, false = error[truth], error[~truth].sum()
    recall = 1 - missed.mean()
    precision = (missed.size - missed.sum()) / (missed.size - missed.sum() + false + TINY)
    return float(2 * precision * recall / (precision + recall + TINY))


def s_measure(values: np.ndarray, truth: np.ndarray) -> float:
    """Structure measure, α = 0.5 (Fan et al., ICCV 2017).

    Args:
        values: (H, W) float64 in [0, 1].  truth: (H, W) bool.
    """
    share = truth.mean()
    if share == 0:
        return float(1 - values.mean())
    if share == 1:
        return float(values.mean())
    objects = share * _object(values[truth]) + (1 - share) * _object(1 - values[~truth])
    return float(max(0.0, 0.5 * objects + 0.5 * _regions(values, truth)))


def _object(values: np.ndarray) -> float:
    """Likeness of values that should all be 1 (section 3.2): bright and even."""
    mean = values.mean()
    deviation = values.std(ddof=1) if values.size > 1 else 0.0
    return 2 * mean / (mean * mean + 1 + deviation + TINY)


def _regions(values: np.ndarray, truth: np.ndarray) -> float:
    """SSIM of the four blocks around the truth's centroid, weighted by area (section 3.1)."""
    rows, columns = np.nonzero(truth)
    y, x = round(rows.mean()) + 1, round(columns.mean()) + 1
    blocks = np.s_[:y, :x], np.s_[:y, x:], np.s_[y:, :x], np.s_[y:, x:]
    parts = [(values[block], truth[block]) for block in blocks if truth[block].size]
    return sum(part.size / truth.size * _ssim(map_part, part) for map_part, part in parts)


def _ssim(a: np.ndarray, b: np.ndarray) -> float:
    mean_a, mean_b = a.mean(), b.mean()
    count = max(a.size - 1, 1)
    variances = (((a - mean_a) ** 2).sum() + ((b - mean_b) ** 2).sum()) / count
    covariance = ((a - mean_a) * (b - mean_b)).sum() / count
    above = 4 * mean_a * mean_b * covariance
    below = (mean_a**2 + mean_b**2) * variances
    if above != 0:
        return above / (below + TINY)
    return 1.0 if below == 0 else 0.0


def _e_measure(inside: np.ndarray, outside: np.ndarray, positives: int, size: int) -> np.ndarray:
    """Enhanced alignment (Fan et al., IJCAI 2018) of (k,) binary maps, each known by its hits and
    its false alarms."""
    area = inside + outside
    if positives == 0:
        return (size - area) / (size - 1 + TINY)
    if positives == size:
        return area / (size - 1 + TINY)
    mean_map, mean_truth = area / size, positives / size
    counts = inside, outside, positives - inside, size - positives - outside
    total = np.zeros(len(area))
    for count, in_map, in_truth in zip(counts, (1, 1, 0, 0), (1, 0, 1, 0), strict=True):
        a, b = in_map - mean_map, in_truth - mean_truth
        total += count * (2 * a * b / (a * a + b * b + TINY) + 1) ** 2 / 4
    return total / (size - 1 + TINY)
