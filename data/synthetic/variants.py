"""The pictures of the Backgrounds Challenge from one image, its mask and other images' backgrounds
(Xiao et al., ICLR 2021, section 3 and figure 1)."""

import cv2
import numpy as np

from data.resize import resize

MIXED = ("mixed_same", "mixed_rand", "mixed_next")
BIASED = "biased"  # of a set that has it: a background that goes with the class, mostly
VARIANTS = ("original", *MIXED, "only_fg", "no_fg", "only_bg_b", "only_bg_t")
SPECK = 0.1  # of the largest part's area: smaller parts do not belong to the object


def binary(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """The foreground of a soft mask by Otsu's threshold, without specks, at the image's size.

    Otsu's, because estimators put the grey of their objects anywhere between 60 and 255.

    Args:
        mask: (S, S) uint8, of the whole image.

    Returns:
        (height, width) bool; all False for a flat mask.
    """
    if mask.min() == mask.max():
        return np.zeros((height, width), bool)
    hard = cv2.threshold(np.ascontiguousarray(mask), 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1]
    _, parts, stats, _ = cv2.connectedComponentsWithStats(hard, connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA]
    kept = areas >= SPECK * areas[1:].max()
    kept[0] = False
    whole = kept[parts].astype(np.uint8) * np.uint8(255)
    return resize(whole, width, height) >= 128


def box(foreground: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom, right (the last two exclusive) of what is True in an (H, W) bool mask.

    Raises:
        ValueError: nothing is.
    """
    if not foreground.any():
        raise ValueError("no pixel of it is foreground")
    left, top, width, height = cv2.boundingRect(foreground.astype(np.uint8))
    return top, left, top + height, left + width


def tiled(image: np.ndarray, around: tuple[int, int, int, int]) -> np.ndarray:
    """The image with a box replaced by tiles of the largest full strip above, below, left or right
    of it (only_bg_t).

    Args:
        image: (H, W, 3) uint8.
        around: as box gives it; it must leave a strip.

    Raises:
        ValueError: the box is the whole image.
    """
    top, left, bottom, right = around
    height, width = image.shape[:2]
    strips = (top * width, (height - bottom) * width, left * height, (width - right) * height)
    largest = int(np.argmax(strips))
    if not strips[largest]:
        raise ValueError("the box is the whole image: there is no background to tile")
    out = image.copy()
    view = out
    if largest >= 2:  # left and right of the box, as above and below it
        view = out.swapaxes(0, 1)
        top, left, bottom, right, height = left, top, right, bottom, width
    first, last = (0, top) if largest % 2 == 0 else (bottom, height)
    rows = first + np.arange(bottom - top) % (last - first)
    view[top:bottom, left:right] = view[rows, left:right]
    return out


def compose(
    image: np.ndarray, foreground: np.ndarray, backgrounds: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Every variant of one image.

    Args:
        image: (H, W, 3) uint8.
        foreground: (H, W) bool, not empty, its box not the whole image.
        backgrounds: only_bg_t pictures (see tiled), (h, w, 3) uint8 of any size, squashed to the
            image's: under "only_bg_t" its own, and for each of MIXED and BIASED another image's.

    Returns:
        {variant: (H, W, 3) uint8}.
    """
    inside, around = foreground[..., None], box(foreground)
    black = image.copy()
    black[around[0] : around[2], around[1] : around[3]] = 0
    pictures = {
        "original": image,
        "only_fg": np.where(inside, image, 0).astype(np.uint8),
        "no_fg": np.where(inside, 0, image).astype(np.uint8),
        "only_bg_b": black,
    }
    for name, other in backgrounds.items():
        other = resize(other, image.shape[1], image.shape[0])
        pictures[name] = other if name == "only_bg_t" else np.where(inside, image, other)
    return pictures
