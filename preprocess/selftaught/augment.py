"""A step's batch: which images, cropped, flipped and recoloured; every draw comes from (seed, step)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from preprocess.selftaught.parts import Samples

DROP = 0.25  # probability that a cue is left out, each of the four
BLIND = 0.1  # probability that all are: the network must find objects in the picture too
SMALLEST = 0.6  # of the side: the smallest crop
GREY = 0.1  # probability that a picture loses its colours


@dataclass(frozen=True)
class Batch:
    """B images: `pixels` (B, 7, S, S) uint8 as the network takes them, `label` (B, S, S) uint8, `trust` (B,) float32,
    `keep` (B, 4) bool, the cues that the network may see."""

    pixels: np.ndarray
    label: np.ndarray
    trust: np.ndarray
    keep: np.ndarray


def batch(samples: Samples, rows: np.ndarray, size: int, sides: tuple[int, ...], seed: int, step: int) -> Batch:
    """Batch number `step` (from 0) of `size` images among `rows`, at one of `sides`; a pure function."""
    rng = np.random.default_rng([seed, 1, step])
    side = int(rng.choice(sides))
    chosen = rows[order(len(rows), seed, step * size, size)]
    image, cues, label, trust = samples.take(chosen)
    pixels, labels = np.empty((size, 7, side, side), np.uint8), np.empty((size, side, side), np.uint8)
    for i in range(size):
        picture, maps = recoloured(image[i], rng), np.concatenate([cues[i], label[i][None]]).transpose(1, 2, 0)
        box, flip = crop(image.shape[1], rng), rng.uniform() < 0.5
        picture = resized(picture, box, side, flip)
        cue = resized(np.ascontiguousarray(maps[..., :4]), box, side, flip)
        pixels[i, :3], pixels[i, 3:] = picture.transpose(2, 0, 1), cue.transpose(2, 0, 1)
        labels[i] = resized(np.ascontiguousarray(maps[..., 4]), box, side, flip)
    keep = (rng.uniform(size=(size, 4)) >= DROP) & (rng.uniform(size=(size, 1)) >= BLIND)
    return Batch(pixels, labels, trust, keep)


def order(count: int, seed: int, start: int, size: int) -> np.ndarray:
    """(size,) positions in 0..count-1: the stretch from `start` of endless passes, each in an order of its own."""
    at = np.arange(start, start + size)
    epochs = {int(e): np.random.default_rng([seed, 0, int(e)]).permutation(count) for e in np.unique(at // count)}
    return np.array([epochs[int(a // count)][a % count] for a in at])


def crop(side: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop of SMALLEST to all of each side."""
    height, width = (round(side * rng.uniform(SMALLEST, 1)) for _ in range(2))
    return int(rng.integers(side - height + 1)), int(rng.integers(side - width + 1)), height, width


def resized(picture: np.ndarray, box: tuple[int, int, int, int], side: int, flip: bool) -> np.ndarray:
    top, left, height, width = box
    part = cv2.resize(picture[top:top + height, left:left + width], (side, side), interpolation=cv2.INTER_LINEAR)
    return part[:, ::-1] if flip else part


def recoloured(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An (S, S, 3) uint8 image with other brightness, contrast and saturation, at times grey."""
    brightness, contrast, saturation = rng.uniform(0.7, 1.3, 3)
    saturation = 0.0 if rng.uniform() < GREY else saturation
    grey = np.array([0.299, 0.587, 0.114])
    # one matrix for all three: contrast around the mean grey, saturation around each pixel's grey
    matrix = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * np.tile(grey, (3, 1)))
    mean = float(image.reshape(-1, 3).mean(0) @ grey)
    offset = brightness * (1 - contrast) * mean
    return cv2.transform(image, np.column_stack([matrix, np.full(3, offset)]))
