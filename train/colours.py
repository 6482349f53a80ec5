"""The colours of train/photometric.py on a CPU: compiled passes over a sample, instead of twenty
over a batch.

A sample's operations are applied to a few rows at a time, which stay in the nearest cache; only
contrast, which needs the mean of the whole picture, and blur, which needs its neighbours, divide
the work in two.
"""

from itertools import permutations

import numpy as np

from data.kernels import njit
from train.parameters import BRIGHTNESS, CONTRAST, GREY, HUE, ORDER, SATURATION, SIGMA, SOLARISE

ORDERS = np.array(list(permutations((BRIGHTNESS, CONTRAST, SATURATION, HUE))))  # (24, 4) int64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
# (3, 2): factor and shift of a channel
NORM = np.array([(1 / s, -m / s) for m, s in zip(MEAN, STD, strict=True)], np.float32)
REACH = 5.5  # standard deviations: a Gaussian weighs 3e-7 of its middle there
PIXELS = 2048  # at a time: 24 KB of float32
R, G, B = (np.float32(x) for x in (0.299, 0.587, 0.114))  # ITU-R 601 luma
ZERO, ONE, TWO, FOUR, SIX = (np.float32(x) for x in (0, 1, 2, 4, 6))
OPTIONS = {
    "cache": True,
    "nogil": True,
    "fastmath": {"nsz", "arcp", "contract", "reassoc"},
    "error_model": "numpy",
}
PIECE = "float32[::1], float32[::1], float32[::1]"  # a piece of the three channels


@njit("float32(float32)", inline="always", **OPTIONS)
def _clip(x):
    return min(max(x, ZERO), ONE)


@njit("float32(float32, float32, float32)", inline="always", **OPTIONS)
def _channel(k, value, chroma):
    k -= SIX * np.floor(k / SIX)
    return value - chroma * _clip(min(k, FOUR - k))


@njit(f"void({PIECE}, float32, float32, float32)", **OPTIONS)
def _scale(red, green, blue, base, luma, factor):
    """Move channels away from base + luma * their grey by a factor, in place."""
    for i in range(len(red)):
        r, g, b = red[i], green[i], blue[i]
        grey = base + luma * (R * r + G * g + B * b)
        red[i] = _clip(grey + factor * (r - grey))
        green[i] = _clip(grey + factor * (g - grey))
        blue[i] = _clip(grey + factor * (b - grey))


@njit(f"void({PIECE}, float32)", **OPTIONS)
def _turn(red, green, blue, turn):
    """Turn the hue by so many sixths of a circle, in place."""
    for i in range(len(red)):
        r, g, b = red[i], green[i], blue[i]
        value = max(r, max(g, b))
        chroma = value - min(r, min(g, b))
        over = ONE / max(chroma, np.float32(1e-8))
        sixth = (r - g) * over + FOUR
        sixth = TWO + (b - r) * over if value == g else sixth
        sixth = (g - b) * over if value == r else sixth
        sixth += turn
        red[i] = _channel(np.float32(5) + sixth, value, chroma)
        green[i] = _channel(np.float32(3) + sixth, value, chroma)
        blue[i] = _channel(ONE + sixth, value, chroma)


@njit("float32(float32, boolean, float32[::1])", inline="always", **OPTIONS)
def _last(x, solarise, norm):
    x = ONE - x if solarise and x >= np.float32(0.5) else x
    return x * norm[0] + norm[1]


@njit(f"void({PIECE}, boolean, float32[:, ::1], float32[::1])", **OPTIONS)
def _finish(red, green, blue, solarise, norm, out):
    """Solarisation and normalisation of a piece, into interleaved channels."""
    for i in range(len(red)):
        out[3 * i] = _last(red[i], solarise, norm[0])
        out[3 * i + 1] = _last(green[i], solarise, norm[1])
        out[3 * i + 2] = _last(blue[i], solarise, norm[2])


@njit("void(float32[:, ::1], int64, float32)", **OPTIONS)
def _blur(planes, side, sigma):
    """Gaussian blur of (3, side * side) planes in place, mirrored outside; unlike
    train/photometric.py's, a kernel wider than the picture is cut at side - 1 pixels."""
    reach = min(int(np.ceil(REACH * sigma)), side - 1)
    weight = np.empty(reach + 1, np.float32)
    for t in range(reach + 1):
        weight[t] = np.exp(np.float32(-0.5) * (np.float32(t) / sigma) ** 2)
    weight /= 2 * weight[1:].sum() + weight[0]
    padded = np.empty((side + 2 * reach, side), np.float32)
    line = np.empty(side + 2 * reach, np.float32)
    for c in range(3):
        plane = planes[c].reshape(side, side)
        padded[reach : reach + side] = plane
        for t in range(1, reach + 1):
            padded[reach - t] = plane[t]
            padded[reach + side - 1 + t] = plane[side - 1 - t]
        for y in range(side):
            middle = line[reach : reach + side]
            here = padded[y + reach]
            for x in range(side):
                middle[x] = weight[0] * here[x]
            for t in range(1, reach + 1):
                w, above, below = weight[t], padded[y + reach - t], padded[y + reach + t]
                for x in range(side):
                    middle[x] += w * (above[x] + below[x])
            for t in range(1, reach + 1):
                line[reach - t] = line[reach + t]
                line[reach + side - 1 + t] = line[reach + side - 1 - t]
            out = plane[y]
            for x in range(side):
                out[x] = weight[0] * middle[x]
            for t in range(1, reach + 1):
                w = weight[t]
                left = line[reach - t : reach - t + side]
                right = line[reach + t : reach + t + side]
                for x in range(side):
                    out[x] += w * (left[x] + right[x])


@njit(
    "void(uint8[::1], float32[::1], int64[:, ::1], float32[:, ::1], float32[:, ::1], float32[::1])",
    **OPTIONS,
)
def _jitter(view, row, orders, norm, planes, out):
    """All of a sample up to its blur into `planes`, and where it has none the rest into `out`."""
    pixels = planes.shape[1]
    steps = 4 if row[ORDER] >= 0 else 0
    order = orders[max(0, int(row[ORDER]))]
    contrast = steps
    for step in range(steps):
        if order[step] == CONTRAST:
            contrast = step
    mean = 0.0
    for half in range(2):  # before contrast, and from contrast on
        for low in range(0, pixels, PIXELS):
            high = min(low + PIXELS, pixels)
            red, green, blue = planes[0, low:high], planes[1, low:high], planes[2, low:high]
            if half == 0:
                piece = view[3 * low : 3 * high]
                for i in range(high - low):
                    red[i] = np.float32(piece[3 * i]) * np.float32(1 / 255)
                    green[i] = np.float32(piece[3 * i + 1]) * np.float32(1 / 255)
                    blue[i] = np.float32(piece[3 * i + 2]) * np.float32(1 / 255)
            for step in range(contrast if half else 0, steps if half else contrast):
                operation, factor = order[step], row[order[step]]
                if operation == HUE:
                    _turn(red, green, blue, SIX * factor)
                else:
                    base = np.float32(mean) if operation == CONTRAST else ZERO
                    luma = ONE if operation == SATURATION else ZERO
                    _scale(red, green, blue, base, luma, factor)
            if half == 0 and steps:
                total = ZERO
                for i in range(high - low):
                    total += R * red[i] + G * green[i] + B * blue[i]
                mean += total / pixels
            if half == 1 and row[GREY] > 0:
                _scale(red, green, blue, ZERO, ONE, ZERO)
            if half == 1 and row[SIGMA] <= 0:
                _finish(red, green, blue, row[SOLARISE] > 0, norm, out[3 * low : 3 * high])


def colours(views: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Augment and normalise a batch, as train/photometric.py does with the same parameters, within
    rounding.

    Args:
        views: (B, s, s, 3) uint8.  parameters: (B, PARAMETERS) float32.

    Returns:
        (B, s, s, 3) float32, normalised.
    """
    count, side = views.shape[:2]
    out, planes = np.empty(views.shape, np.float32), np.empty((3, side * side), np.float32)
    flat = (x.reshape(count, planes.size) for x in (np.ascontiguousarray(views), out))
    for row, view, result in zip(np.ascontiguousarray(parameters), *flat, strict=True):
        _jitter(view, row, ORDERS, NORM, planes, result)
        if row[SIGMA] > 0:
            _blur(planes, side, row[SIGMA])
            _finish(*planes, row[SOLARISE] > 0, NORM, result)
    return out
