"""The colours of train/photometric.py on a CPU: one compiled pass a sample instead of twenty over a
batch.

A sample's operations are applied to a few rows at a time, which stay in the nearest cache; only
contrast, which needs the mean of the whole picture, and blur, which needs its neighbours, divide
the work in two.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np

from data.kernels import njit
from train.parameters import BRIGHTNESS, CONTRAST, GREY, HUE, ORDER, SATURATION, SIGMA, SOLARISE

ORDERS = np.array(list(permutations((BRIGHTNESS, CONTRAST, SATURATION, HUE))))  # (24, 4) int64
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
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


@njit("float32(float32)", inline="always", **OPTIONS)
def _clip(x):
    return min(max(x, ZERO), ONE)


@njit("float32(float32, float32, float32)", inline="always", **OPTIONS)
def _channel(k, value, chroma):
    k -= SIX * np.floor(k / SIX)
    return value - chroma * _clip(min(k, FOUR - k))


@njit("void(float32[::1], float32[::1], float32[::1], int64, float32, float32)", **OPTIONS)
def _adjust(red, green, blue, operation, factor, mean):
    """One operation of ColorJitter on a piece of the three channels, in place; `mean` is
    contrast's."""
    if operation == BRIGHTNESS:
        for i in range(len(red)):
            red[i] = _clip(red[i] * factor)
            green[i] = _clip(green[i] * factor)
            blue[i] = _clip(blue[i] * factor)
    elif operation == CONTRAST:
        for i in range(len(red)):
            red[i] = _clip(mean + factor * (red[i] - mean))
            green[i] = _clip(mean + factor * (green[i] - mean))
            blue[i] = _clip(mean + factor * (blue[i] - mean))
    elif operation == SATURATION:
        for i in range(len(red)):
            r, g, b = red[i], green[i], blue[i]
            grey = R * r + G * g + B * b
            red[i] = _clip(grey + factor * (r - grey))
            green[i] = _clip(grey + factor * (g - grey))
            blue[i] = _clip(grey + factor * (b - grey))
    elif operation == HUE:
        turn = SIX * factor
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


@njit("void(float32[:, ::1], int64, float32)", **OPTIONS)
def _blur(planes, side, sigma):
    """Gaussian blur of (3, side * side) planes in place, mirrored outside; its reach must be below
    `side`."""
    reach = int(np.ceil(REACH * sigma))
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
    "void(float32[::1], float32[::1], float32[::1], boolean, float32[:, ::1], float32[::1])",
    **OPTIONS,
)
def _finish(red, green, blue, solarise, norm, out):
    """Solarisation and normalisation of a piece, into interleaved channels."""
    for i in range(len(red)):
        r, g, b = red[i], green[i], blue[i]
        if solarise:
            r = r if r < 0.5 else ONE - r
            g = g if g < 0.5 else ONE - g
            b = b if b < 0.5 else ONE - b
        out[3 * i] = r * norm[0, 0] + norm[0, 1]
        out[3 * i + 1] = g * norm[1, 0] + norm[1, 1]
        out[3 * i + 2] = b * norm[2, 0] + norm[2, 1]


@njit(
    "void(uint8[:, ::1], float32[:, ::1], int64[:, ::1], float32[:, ::1], float32[:, ::1])",
    **OPTIONS,
)
def _colours(views, parameters, orders, norm, out):
    pixels = views.shape[1] // 3
    side = int(np.rint(np.sqrt(pixels)))
    planes = np.empty((3, pixels), np.float32)
    scale = np.float32(1 / 255)
    for n in range(len(views)):
        row, view = parameters[n], views[n]
        jitter = row[ORDER] >= 0
        order = orders[max(0, int(row[ORDER]))]
        contrast = 4
        for step in range(4):
            if jitter and order[step] == CONTRAST:
                contrast = step
        mean = 0.0
        for half in range(2):  # before contrast, and from contrast on
            for low in range(0, pixels, PIXELS):
                high = min(low + PIXELS, pixels)
                red, green, blue = planes[0, low:high], planes[1, low:high], planes[2, low:high]
                if half == 0:
                    piece = view[3 * low : 3 * high]
                    for i in range(high - low):
                        red[i] = np.float32(piece[3 * i]) * scale
                        green[i] = np.float32(piece[3 * i + 1]) * scale
                        blue[i] = np.float32(piece[3 * i + 2]) * scale
                if jitter:
                    for step in range(contrast if half else 0, 4 if half else contrast):
                        _adjust(red, green, blue, order[step], row[order[step]], np.float32(mean))
                if half == 0 and contrast < 4:
                    total = ZERO
                    for i in range(high - low):
                        total += R * red[i] + G * green[i] + B * blue[i]
                    mean += total / pixels
                if half == 1 and row[GREY] > 0:
                    for i in range(high - low):
                        red[i] = green[i] = blue[i] = R * red[i] + G * green[i] + B * blue[i]
                if half == 1 and row[SIGMA] <= 0:
                    _finish(red, green, blue, row[SOLARISE] > 0, norm, out[n, 3 * low : 3 * high])
        if row[SIGMA] > 0:
            _blur(planes, side, row[SIGMA])
            _finish(planes[0], planes[1], planes[2], row[SOLARISE] > 0, norm, out[n])


def fits(parameters: np.ndarray, side: int) -> bool:
    """Whether every blur reaches less far than the picture is wide."""
    return float(parameters[:, SIGMA].max(initial=0)) * REACH <= side - 1


def colours(views: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Augment and normalise a batch, as train/photometric.py does with the same parameters, within
    rounding.

    Args:
        views: (B, s, s, 3) uint8.  parameters: (B, PARAMETERS) float32 that fit.

    Returns:
        (B, s, s, 3) float32, normalised.
    """
    norm = np.array([(1 / s, -m / s) for m, s in zip(MEAN, STD, strict=True)], np.float32)
    out = np.empty(views.shape, np.float32)
    flat = len(views), 3 * views.shape[1] ** 2
    _colours(
        np.ascontiguousarray(views).reshape(flat),
        np.ascontiguousarray(parameters),
        ORDERS,
        norm,
        out.reshape(flat),
    )
    return out
