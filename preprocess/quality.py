"""Per-mask statistics: what people look at before they spend GPU-weeks on masks."""

import cv2
import numpy as np

_LEVELS = np.clip(np.arange(256) / 255, 1e-6, 1 - 1e-6)
ENTROPY = (-(_LEVELS * np.log2(_LEVELS) + (1 - _LEVELS) * np.log2(1 - _LEVELS))).astype(
    np.float32
)  # of a grey level
SIDE = 64  # statistics are taken at 64x64: 0.1 ms an image, and shape is all they need


def quality(image: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Statistics of one mask.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (S, S) uint8, 255 = foreground.

    Returns:
        coverage: mean of the mask, 0..1. 0 is empty, 1 covers everything.
        border: mean of the mask over the outermost pixels, 0..1: a mask that hugs the border is
            often background.
        contrast: distance between the mean RGB colours inside and outside, as a share of the
            largest possible, 0..1.
        entropy: mean binary entropy of the mask as a probability, in bits, 0..1: how undecided the
            map is.
    """
    levels, small = (
        cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for picture in (mask, image)
    )
    area = levels.astype(np.float32) / 255
    pixels, alpha = small.reshape(-1, 3).astype(np.float32), area.reshape(-1)
    inside = float(alpha.sum())
    outside = SIDE * SIDE - inside
    contrast = 0.0
    if inside > 0 and outside > 0:
        foreground = alpha @ pixels
        difference = foreground / inside - (pixels.sum(0) - foreground) / outside
        contrast = float(np.linalg.norm(difference) / (255 * np.sqrt(3)))
    edge = np.concatenate([area[0], area[-1], area[1:-1, 0], area[1:-1, -1]])
    return {
        "coverage": inside / (SIDE * SIDE),
        "border": float(edge.mean()),
        "contrast": contrast,
        "entropy": float(ENTROPY[levels].mean()),
    }
