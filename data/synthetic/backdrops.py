"""Ten kinds of background for the embedded data set: photographs that scikit-image ships, and
procedural textures.

Every kind varies in crop, scale, rotation, contrast, light and colour; colour is drawn apart from
the kind.
"""

from collections.abc import Callable
from functools import cache, partial

import cv2
import numpy as np
from numpy.random import Generator

from data.synthetic.objects import LUMA, colour

CONTRAST = (14.0, 30.0)  # standard deviation of a background's grey levels


Texture = Callable[[Generator, int], np.ndarray]


@cache
def _photograph(name: str) -> tuple[np.ndarray, ...]:
    """A photograph of scikit-image's wheel (no download) as float32 grey levels at full, half and
    quarter scale."""
    from skimage import data  # late: 0.3 s, and a data set that is up to date needs none of it

    image = getattr(data, name)()
    grey = (image @ LUMA if image.ndim == 3 else image).astype(np.float32)
    # Uneven light over the photograph is taken out: crops of one kind should look alike wherever
    # they come from.
    grey -= cv2.GaussianBlur(grey, (0, 0), 40)
    return grey, cv2.pyrDown(grey), cv2.pyrDown(cv2.pyrDown(grey))


def _crop(name: str, low: float, high: float, rng: Generator, size: int) -> np.ndarray:
    """A square crop of a photograph, with low..high photograph pixels to one pixel at side 64."""
    step = np.exp(rng.uniform(np.log(low), np.log(high))) * 64 / size
    level = int(np.clip(np.floor(np.log2(step)), 0, 2))  # the pyramid avoids aliasing
    image, step = _photograph(name)[level], step / 2**level
    angle, flip = rng.uniform(0, 2 * np.pi), rng.choice([-1.0, 1.0])
    cos, sin = np.cos(angle), np.sin(angle)
    turn = step * np.array([[cos, -sin], [sin, cos]]) * [flip, 1]
    extent = np.array(image.shape[::-1])
    margin = np.minimum(step * size * 0.5, extent * 0.5)
    centre = rng.uniform(margin, extent - margin)
    offset = centre - turn @ [size / 2, size / 2]
    return cv2.warpAffine(
        image,
        np.column_stack([turn, offset]),
        (size, size),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )


def _noise(rng: Generator, size: int, across: float, along: float) -> np.ndarray:
    """Smooth noise with about `across` x `along` (y, x) bumps over the image."""
    cells = rng.normal(size=(int(across) + 3, int(along) + 3)).astype(np.float32)
    return cv2.resize(cells, (size, size), interpolation=cv2.INTER_CUBIC)


def _axes(rng: Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the pixels, in units of 1/64 of the image, rotated and shifted at random."""
    y, x = (np.mgrid[:size, :size].astype(np.float32) - size / 2) * 64 / size
    angle, shift = rng.uniform(0, 2 * np.pi), rng.uniform(0, 64, 2)
    cos, sin = np.cos(angle), np.sin(angle)
    return x * cos + y * sin + shift[0], y * cos - x * sin + shift[1]


def _clouds(rng: Generator, size: int) -> np.ndarray:
    base = rng.uniform(2, 4)
    return sum(_noise(rng, size, base * 2**k, base * 2**k) * 0.55**k for k in range(4))


def _ripples(rng: Generator, size: int) -> np.ndarray:
    x, y = _axes(rng, size)
    period, bend = rng.uniform(7, 13), 3 * _noise(rng, size, 3, 3)
    wave = np.sin(2 * np.pi * (x + bend) / period)
    return wave + 0.6 * np.sin(2 * np.pi * (x + 0.35 * y - bend) / (0.63 * period))


def _planks(rng: Generator, size: int) -> np.ndarray:
    x, y = _axes(rng, size)
    width = rng.uniform(11, 18)
    board = np.floor(x / width).astype(int)
    tones = rng.normal(size=64)[board % 64]
    seam = np.abs(x / width % 1 - 0.5) > 0.5 - 0.8 / width
    grain = np.sin(x * rng.uniform(1.6, 2.2) + 1.5 * np.sin(y * 0.11 + 5 * tones))
    return 0.8 * tones + 0.45 * grain - 2.5 * seam


def _cobbles(rng: Generator, size: int) -> np.ndarray:
    x, y = _axes(rng, size)
    cell = rng.uniform(10, 16)
    x, y = x / cell, y / cell
    jitter = rng.uniform(-0.36, 0.36, size=(32, 32, 3))
    around = np.indices((3, 3)).reshape(2, 9) - 1
    column = np.floor(x).astype(int)[..., None] + around[0]
    row = np.floor(y).astype(int)[..., None] + around[1]
    stones = jitter[row % 32, column % 32]
    distance = np.hypot(
        column + 0.5 + stones[..., 0] - x[..., None], row + 0.5 + stones[..., 1] - y[..., None]
    )
    first, second = np.moveaxis(np.sort(distance, -1)[..., :2], -1, 0)
    closest = distance.argmin(-1)[..., None]
    tone = np.take_along_axis(stones[..., 2], closest, -1)[..., 0]
    return np.clip((second - first) * 5, 0, 1) + 1.2 * tone


BACKGROUNDS: dict[str, Texture] = {
    "brick": partial(_crop, "brick", 2.0, 4.0),
    "clouds": _clouds,
    "cobbles": _cobbles,
    "grass": partial(_crop, "grass", 1.0, 2.2),
    "gravel": partial(_crop, "gravel", 1.2, 2.6),
    "planks": _planks,
    "print": partial(_crop, "page", 0.9, 1.7),
    "ripples": _ripples,
    "stars": partial(_crop, "hubble_deep_field", 1.0, 2.4),
    "tissue": partial(_crop, "immunohistochemistry", 1.0, 2.4),
}


def draw_background(
    kind: str, rng: Generator, size: int, away_from: np.ndarray | None = None
) -> np.ndarray:
    """One instance of background `kind`: (size, size, 3) float32, 0..255.

    Args:
        away_from: (3,) RGB colour of the object that will stand on it; the background's mean colour
            is drawn again (at most eight times) until the two differ: an object the colour of its
            background is seldom photographed.
    """
    texture = BACKGROUNDS[kind](rng, size).astype(np.float32)
    texture = (texture - texture.mean()) / (texture.std() + 1e-3)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    light = rng.uniform(0, 30) * (np.cos(angle) * x + np.sin(angle) * y)
    for _ in range(8):
        mean = colour(rng, 50, 205)
        if away_from is None or np.linalg.norm(mean - away_from) > 70:
            break
    tint = 1 + rng.uniform(-0.35, 0.35, 3).astype(np.float32)
    grey = rng.uniform(*CONTRAST) * np.clip(texture, -3, 3)
    return np.clip(mean + grey[..., None] * tint + light[..., None], 0, 255)
