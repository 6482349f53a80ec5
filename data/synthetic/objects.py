"""Objects and their shapes and patterns, for the embedded data set: one object of a class, drawn as
colours and a mask.

A class is one silhouette with one pattern; colours, place, size, rotation, proportions, a smooth
warp and the pattern's period and phase vary from instance to instance, so that no single pixel
statistic tells the class.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.random import Generator

AREA = (0.12, 0.32)  # of the image, before the part that leaves the frame
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


Array = np.ndarray


@dataclass(frozen=True)
class Place:
    """Where a pattern is drawn, each (size, size): `x` and `y` in periods along the object's own
    axes, `u` and `v` in object radii, and `edge`, the silhouette's value, 0 on its edge."""

    x: Array
    y: Array
    u: Array
    v: Array
    edge: Array


# of u and v in object radii: below 0 inside
Silhouette = Callable[[Array, Array, Generator], Array]
Pattern = Callable[[Place, Generator], Array]  # 0..1


def _box(u: Array, v: Array, a: float, b: float) -> Array:
    return np.maximum(np.abs(u) - a, np.abs(v) - b)


def _bar(u: Array, v: Array, rng: Generator) -> Array:
    v = v + rng.uniform(-0.35, 0.35) * u * u  # a slight bend, so that bars are not all alike
    return np.hypot(u - np.clip(u, -0.75, 0.75), v) - 0.28


def _star(u: Array, v: Array, rng: Generator) -> Array:
    turn = np.arctan2(v, u) * 5 / (2 * np.pi)
    angle = np.abs(turn % 1 - 0.5) * 2  # 0 at a tip, 1 in a notch
    return np.hypot(u, v) - (0.42 + 0.68 * np.abs(1 - angle) ** 1.3)


def _triangle(u: Array, v: Array, rng: Generator) -> Array:
    sides = [u * np.cos(a) + v * np.sin(a) for a in (np.pi / 2, np.pi * 7 / 6, np.pi * 11 / 6)]
    return np.maximum.reduce(sides) - 0.55


def _blob(u: Array, v: Array, rng: Generator) -> Array:
    angle = np.arctan2(v, u)
    edge = 0.78 + sum(
        rng.uniform(0.05, 0.16) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4)
    )
    return np.hypot(u, v) - edge


def _wave(phase: Array) -> Array:
    """A square wave of period 1 with softened flanks, 0..1."""
    return np.clip(0.5 + 1.5 * np.sin(2 * np.pi * phase), 0, 1)


def _step(values: Array) -> Array:
    """A softened edge where `values` are 0, 0..1."""
    return np.clip(0.5 + values, 0, 1)


def _dots(at: Place, rng: Generator) -> Array:
    y = at.y + 0.5 * (np.floor(at.x) % 2)
    return np.clip(4 * (0.36 - np.hypot(at.x % 1 - 0.5, y % 1 - 0.5)) + 0.5, 0, 1)


def _blotches(at: Place, rng: Generator) -> Array:
    field = 0
    for _ in range(5):  # a few plane waves in random directions make blotches
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        along = at.x * np.cos(angle) + at.y * np.sin(angle)
        field = field + np.sin(2 * np.pi * 0.55 * along + phase)
    return _step(1.2 * field)


SILHOUETTES: dict[str, Silhouette] = {
    "bar": _bar,
    "blob": _blob,
    "corner": lambda u, v, rng: np.minimum(
        _box(u, v + 0.62, 0.95, 0.33), _box(u + 0.62, v, 0.33, 0.95)
    ),
    "crescent": lambda u, v, rng: np.maximum(
        np.hypot(u, v) - 1, 0.78 - np.hypot(u - rng.uniform(0.45, 0.6), v)
    ),
    "cross": lambda u, v, rng: np.minimum(_box(u, v, 1, 0.32), _box(u, v, 0.32, 1)),
    "disc": lambda u, v, rng: np.hypot(u, v) - 1,
    "ellipse": lambda u, v, rng: np.hypot(u, v / 0.62) - 1,
    "square": lambda u, v, rng: _box(u, v, 0.8, 0.8),
    "star": _star,
    "triangle": _triangle,
}
PATTERNS: dict[str, Pattern] = {
    "striped": lambda at, rng: _wave(at.x),
    "blotched": _blotches,
    "zigzag": lambda at, rng: _wave(at.x + 0.9 * np.abs((0.5 * at.y) % 1 - 0.5)),
    "halved": lambda at, rng: _step(6 * at.v),
    "meshed": lambda at, rng: np.clip(
        2.2 * np.maximum(np.cos(np.pi * at.x) ** 6, np.cos(np.pi * at.y) ** 6), 0, 1
    ),
    "ringed": lambda at, rng: _wave(np.hypot(at.u, at.v) * rng.uniform(1.8, 2.6) + rng.uniform()),
    "dotted": _dots,
    "checked": lambda at, rng: _step(2 * np.sin(np.pi * at.x) * np.sin(np.pi * at.y)),
    "spoked": lambda at, rng: _wave(np.arctan2(at.v, at.u) * 5 / (2 * np.pi) - 0.25),
    "rimmed": lambda at, rng: _step(9 * (at.edge + rng.uniform(0.17, 0.24))),
}
# each a silhouette with a pattern
CLASSES = tuple(map("_".join, zip(SILHOUETTES, PATTERNS, strict=True)))


@cache
def _outline(name: str) -> tuple[float, np.ndarray]:
    """Area of a silhouette at radius 1, and (N, 2) points of it: how far it reaches, rotated."""
    u, v = np.meshgrid(np.linspace(-1.4, 1.4, 113), np.linspace(-1.4, 1.4, 113))
    inside = SILHOUETTES[name](u, v, np.random.default_rng(0)) < 0
    return float(inside.mean()) * 2.8**2, np.stack([u[inside], v[inside]], 1)


def colour(rng: Generator, low: float, high: float) -> np.ndarray:
    """(3,) float32 RGB, any hue, of a luminance drawn from `low`..`high` (0..255)."""
    direction = rng.normal(size=3).astype(np.float32)
    direction -= direction @ LUMA  # along a hue, away from grey, at constant luminance
    direction *= rng.uniform(10, 60) / np.linalg.norm(direction)
    return np.clip(rng.uniform(low, high) + direction, 0, 255).astype(np.float32)


def draw_object(name: str, rng: Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One instance of class `name`.

    Returns:
        colours (size, size, 3) float32, 0..255, defined everywhere; mask (size, size) float32,
        0..1, soft at the edge.
    """
    silhouette, pattern = name.split("_")
    area, points = _outline(silhouette)
    radius = size * np.sqrt(rng.uniform(*AREA) / area)
    stretch, angle = np.exp(rng.uniform(-0.2, 0.2)), rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    reach = np.abs(points * [stretch, 1 / stretch] @ [[cos, sin], [-sin, cos]]).max(0) * radius
    # The object stays inside, but for at most a twelfth of its extent: saliency methods take what
    # meets the border for background, and photographs are framed the same way.
    slack = np.maximum(size / 2 - 0.92 * reach, 0)
    centre = size / 2 + rng.uniform(-1, 1, 2) * slack
    yy, xx = np.mgrid[:size, :size].astype(np.float32) + 0.5
    dx, dy = xx - centre[0], yy - centre[1]
    along, across = dx * cos + dy * sin, dy * cos - dx * sin
    u, v = along / (radius * stretch), across / (radius / stretch)
    bend = rng.uniform(0, 0.07, 2)
    u, v = (
        u + bend[0] * np.sin(2.2 * v + rng.uniform(0, 6.28)),
        v + bend[1] * np.sin(2.2 * u + rng.uniform(0, 6.28)),
    )
    edge = SILHOUETTES[silhouette](u, v, rng)
    slope = np.hypot(*np.gradient(edge)) + 1e-6
    mask = np.clip(0.5 - edge / slope, 0, 1).astype(np.float32)
    period = size / 64 * rng.uniform(8, 11)
    shift = rng.uniform(0, 1, 2)
    x, y = along / period + shift[0], across / period + shift[1]
    tone = PATTERNS[pattern](Place(x, y, u, v, edge), rng)[..., None].astype(np.float32)
    dark, light = colour(rng, 15, 90), colour(rng, 165, 240)
    if rng.uniform() < 0.5:  # either polarity, so that bright or dark on its own says nothing
        dark, light = light, dark
    return dark + tone * (light - dark), mask
