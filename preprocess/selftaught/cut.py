"""GrabCut for the labels (Rother, Kolmogorov, Blake, SIGGRAPH 2004), OpenCV's, with published or round constants.

Five colours a side and gamma = 50 are the paper's, inside OpenCV; the slope of the sigmoid is MB+'s (ICCV 2015); what
is certain are the surest 5 % of its range on either side, and the working side is that of the stored pictures. None of
these was chosen with a true mask.
"""

from __future__ import annotations

import cv2
import numpy as np

ITERATIONS = 3
ROUGH = 64  # px, of the cuts from single cues, of one iteration: they only vote
SLOPE = 10.0  # of the sigmoid around Otsu's threshold
CERTAIN = 0.05  # of the sigmoid's range at either end: fixed as background, as foreground
FEWEST = 10  # pixels that each side needs for its five colours


def cut(image: np.ndarray, prior: np.ndarray, at: int | None = None, iterations: int = ITERATIONS) -> np.ndarray:
    """The foreground that a soft prior suggests; a pure function.

    Args:
        image: (S, S, 3) uint8 RGB.  prior: (S, S) uint8, 0 = background .. 255 = foreground.
        at: px, side at which it is cut (default: S).  iterations: of GrabCut.

    Returns:
        (S, S) uint8, enlarged; the prior itself where there is nothing to cut or nothing remains.
    """
    side = prior.shape[0]
    small = np.ascontiguousarray(_resized(image, at or side)[..., ::-1])
    levels = _resized(prior, at or side).astype(np.float32)
    low, high = levels.min(), levels.max()
    if high - low < 1:
        return prior
    levels = np.rint((levels - low) / (high - low) * 255).astype(np.uint8)
    threshold = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0]
    sure = 1 / (1 + np.exp(SLOPE / 255 * (threshold - levels.astype(np.float32))))
    sure = (sure - sure.min()) / (sure.max() - sure.min())
    mask = np.where(levels > threshold, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    mask[sure < CERTAIN] = cv2.GC_BGD
    mask[sure > 1 - CERTAIN] = cv2.GC_FGD
    inside = int(np.count_nonzero(mask & 1))
    if min(inside, mask.size - inside) < FEWEST:
        return prior
    cv2.setRNGSeed(0)  # its k-means draws: the same image must give the same cut
    cv2.grabCut(small, mask, None, np.zeros((1, 65)), np.zeros((1, 65)), iterations,
                cv2.GC_INIT_WITH_MASK)
    found = (mask & 1) * np.uint8(255)
    if not FEWEST <= np.count_nonzero(found) <= mask.size - FEWEST:
        return prior
    return _resized(found, side)


def _resized(picture: np.ndarray, side: int) -> np.ndarray:
    if picture.shape[0] == side:
        return picture
    shrinks = picture.shape[0] > side
    return cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def first_label(image: np.ndarray, cues: np.ndarray) -> tuple[np.ndarray, float]:
    """The label that four cues suggest, and how well they agree on it.

    Args:
        image: (S, S, 3) uint8 RGB.  cues: (4, S, S) uint8.

    Returns:
        (S, S) uint8: the cut from the cues' mean on its own side of 128, and as far from it as the rough cuts from
        single cues agree with it there: where all four do, 0 or 255. And their agreement with that cut, in 0..1.
    """
    main = cut(image, np.rint(np.mean([_stretched(c) for c in cues], 0) * 255).astype(np.uint8))
    votes = np.stack([cut(image, cue, ROUGH, 1) for cue in cues])
    inside = main >= 128
    share = ((votes >= 128) == inside).mean(0)
    return np.where(inside, 128 + 127 * share, 127 - 127 * share).round().astype(np.uint8), agreement(votes, main)


def _stretched(cue: np.ndarray) -> np.ndarray:
    low, high = float(cue.min()), float(cue.max())
    return (cue - low) / max(high - low, 1.0)


def agreement(masks: np.ndarray, consensus: np.ndarray) -> float:
    """The mean intersection over union, in 0..1, of (k, S, S) uint8 maps with an (S, S) uint8 one, soft (Ruzicka)."""
    masks, consensus = masks.astype(np.float32), consensus.astype(np.float32)
    both = np.minimum(masks, consensus).sum((1, 2))
    either = np.maximum(masks, consensus).sum((1, 2))
    return float(np.mean(np.where(either > 0, both / np.maximum(either, 1), 1)))
