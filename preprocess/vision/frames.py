"""Artificial frames (drawn borders around photographs), which would pose as background."""

import cv2
import numpy as np

from data.kernels import njit

MAX_WIDTH = 0.075  # of the longer side: 30 px of a 400 px image
DENSITY = 0.6  # of a row (or column) that must be edge to be a frame's
BOTH = 0.9  # of two neighbouring rows together: noise may scatter a step's thinned edge over both
CUTOFF = 4.0  # times the mean squared gradient: the usual automatic threshold of Sobel edges

PLAIN = 12  # grey levels by which a margin's pixels differ from its colour, JPEG's noise included
STRAY = 0.02  # of a margin's line: pixels that may differ by more
LEAST_PICTURE = 16  # a picture within margins takes at least one in so many pixels
STRAIGHT = 0.9  # of the picture's first line: pixels that must differ, or it is an object's outline

Box = tuple[slice, slice]  # rows and columns of an image


def inner_box(image: np.ndarray, frame: bool = True) -> Box:
    """The part of an image inside its artificial frame.

    A row (column) within MAX_WIDTH of a side of which more than DENSITY is Sobel edge ends a frame
    on that side. Where any side has a frame, the sides without one take the widest one's width (Zhu
    et al., CVPR 2014, the authors' demo). Margins of one colour on two to four sides may have any
    width.

    Args:
        image: (h, w, 3) uint8 RGB.
        frame: False: the whole image, whatever it has.
    """
    height, width = image.shape[:2]
    reach = round(MAX_WIDTH * max(height, width))
    widths = np.zeros(4, np.int64)
    if frame and min(height, width) >= 4 * reach and reach >= 2:  # else too narrow to tell
        widths = np.array(_margin_widths(image))
        if widths.max() <= reach:
            widths = _frame_widths(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), reach)
            widths[widths == 0] = widths.max()
    top, bottom, left, right = widths.tolist()
    return slice(top, height - bottom), slice(left, width - right)


def unframed(inner: np.ndarray, box: Box, shape: tuple[int, int]) -> np.ndarray:
    """A float32 map of the inner box as one of the whole image, (H, W), 0 in the frame."""
    if inner.shape == shape:
        return inner
    whole = np.zeros(shape, np.float32)
    whole[box] = inner
    return whole


def _margin_widths(image: np.ndarray) -> list[int]:
    """Px of the plain margin at the top, bottom, left and right; zeros unless two are plain."""
    turned = image.transpose(1, 0, 2)
    sides = image, image[::-1], turned, turned[::-1]
    none = [0, 0, 0, 0]
    if sum(np.ptp(side[0], 0).max() <= 2 * PLAIN for side in sides) < 2:
        return none
    differs = [_differs(side) for side in sides]
    widths = [int((lines.mean(1) > STRAY).argmax()) for lines in differs]
    top, bottom, left, right = widths
    inner = image[top : len(image) - bottom, left : len(turned) - right]
    if np.count_nonzero(widths) < 2 or inner.size * LEAST_PICTURE < image.size:
        return none
    if _differs(inner).mean() < STRAY:  # an object of one colour
        return none
    across = (left, right), (left, right), (top, bottom), (top, bottom)
    for lines, width, (start, end) in zip(differs, widths, across, strict=True):
        # the first line that differs may be a blend
        line = lines[min(width + 1, len(lines) - 1), start : lines.shape[1] - end]
        if width > 0 and line.mean() < STRAIGHT:
            return none
    return widths


def _differs(side: np.ndarray) -> np.ndarray:
    """(lines, px) bool: pixels unlike the colour of the first line."""
    colour = np.median(side[0], 0)
    return (np.abs(side - colour) > PLAIN).any(2)


def _frame_widths(grey: np.ndarray, reach: int) -> np.ndarray:
    """(4,) int64: px of the frame at the top, bottom, left and right; 0 where there is none."""
    x = cv2.Sobel(grey, cv2.CV_32F, 1, 0, borderType=cv2.BORDER_REPLICATE)
    y = cv2.Sobel(grey, cv2.CV_32F, 0, 1, borderType=cv2.BORDER_REPLICATE)
    rows, columns = _edge_counts(x, y, reach)
    rows, columns = _density(rows / len(columns)), _density(columns / len(rows))
    lines = np.stack([rows[:reach], rows[::-1][:reach], columns[:reach], columns[::-1][:reach]])
    return ((lines > DENSITY) * np.arange(1, reach + 1)).max(1)


def _density(share: np.ndarray) -> np.ndarray:
    """The share of edge of each line, or a part of that of the line and the one before it."""
    both = share.copy()
    both[1:] += share[:-1]
    return np.maximum(share, both * (DENSITY / BOTH))


@njit("float64(float32[:, ::1], int64)", cache=True, nogil=True, inline="always")
def _mean_strength(strength, reach):
    """The mean, of every pixel near a side and of a quarter of those inside."""
    h, w = strength.shape
    total, count = 0.0, 0
    for i in range(h):
        for j in range(w):
            inside = reach < i < h - 1 - reach and reach < j < w - 1 - reach
            if not inside:
                total += strength[i, j]
                count += 1
            elif (i + j) % 4 == 0:
                total += 4 * strength[i, j]
                count += 4
    return total / count


@njit("UniTuple(int64[::1], 2)(float32[:, ::1], float32[:, ::1], int64)", cache=True, nogil=True)
def _edge_counts(x, y, reach):
    """Edge pixels of each row and column within `reach` px of a side, one px thin.

    From Sobel's derivatives; in numpy this takes three times as long, 0.2 ms of RBD's 6 times
    decoding.
    """
    h, w = x.shape
    strength = x * x + y * y
    cutoff = CUTOFF * _mean_strength(strength, reach)
    rows, columns = np.zeros(h, np.int64), np.zeros(w, np.int64)
    for i in range(h):
        for j in range(w):
            here = strength[i, j]
            if (reach <= i < h - reach and reach <= j < w - reach) or here <= cutoff:
                continue
            if abs(x[i, j]) >= abs(y[i, j]):
                before, after = strength[i, max(j - 1, 0)], strength[i, min(j + 1, w - 1)]
            else:
                before, after = strength[max(i - 1, 0), j], strength[min(i + 1, h - 1), j]
            if before <= here and here > after:
                rows[i] += 1
                columns[j] += 1
    return rows, columns
