"""Pictures inside the page: PNG files of run folders, and masks of the caches of the runs."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data.cache.reader import Cache
from data.resize import resize
from data.sources.images import ImageError, decode
from evaluate.masks.examples import overlay, read, rows_by_quality
from evaluate.report.runs import Run, read_file

WIDTH = 1200  # pixels that a picture has at most across; its height at most three times that
SIDE = 128  # height of a mask, in pixels
FIRST = "first_batch"  # is shown before the others


class Picture(NamedTuple):
    """A picture as the page shows it; `source` is a data URI, `coverage` a mask's."""

    source: str
    width: int
    height: int
    name: str
    run: str = ""
    coverage: float = 0.0


class Gallery(NamedTuple):
    """Masks of one cache, and the names of the runs that were trained with it."""

    cache: str
    estimator: str
    runs: str
    pictures: list[Picture]


def pictures(runs: list[Run], count: int, notes: list[str]) -> Iterator[Picture]:
    """At most `count` PNG files of every run; one that cannot be decoded gives a note."""
    for run in runs if count else []:
        files = sorted(run.pictures, key=lambda file: (file.stem != FIRST, file.name))
        if len(files) > count:
            notes.append(f"{run.path}: {len(files) - count} more pictures; --pictures shows them")
        for file in files[:count]:
            try:
                image = decode(read_file(file))
            except (ImageError, ValueError, OSError) as error:
                notes.append(f"{file}: {error}")
                continue
            scale = min(1.0, WIDTH / image.shape[1], 3 * WIDTH / image.shape[0])
            width, height = (max(1, round(scale * side)) for side in image.shape[1::-1])
            yield _picture(resize(image, width, height), file.name, run=run.name)


def galleries(runs: list[Run], count: int, notes: list[str]) -> Iterator[Gallery]:
    """`count` masks of every cache that a run was trained with, from little coverage to much."""
    users: dict[tuple[str, str], list[str]] = {}
    for run in runs if count else []:
        masks, images = run.config.get("masks"), run.config.get("images")
        if isinstance(masks, str) and isinstance(images, str) and masks != "none":
            users.setdefault((masks, images), []).append(run.name)
    for (masks, images), names in users.items():
        try:
            cache = Cache(masks)
            strips = list(_strips(cache, images, count))
            if not strips:
                raise ValueError("none of its images is in the run's image folder")
        except (ImageError, ValueError, OSError) as error:
            notes.append(f"{masks}: no masks to show ({error})")
        else:
            estimator = str(cache.identity["estimator"])
            yield Gallery(Path(masks).name, estimator, ", ".join(names), strips)


def _strips(cache: Cache, images: str, count: int) -> Iterator[Picture]:
    """Image, mask and overlay of rows of a cache; a run may use any part of its images."""
    for row in rows_by_quality(cache, "coverage", count).tolist():
        try:
            image = read(cache, images, row)
        except ImageError:
            continue
        width = min(3 * SIDE, max(1, round(image.shape[1] * SIDE / image.shape[0])))
        image, mask = resize(image, width, SIDE), cache.mask(row)
        grey = np.repeat(resize(mask, width, SIDE)[..., None], 3, 2)
        strip = np.concatenate([image, grey, overlay(image, mask)], 1)
        name = os.fsdecode(cache.paths[row])
        yield _picture(strip, name, coverage=float(mask.mean()) / 255)


def _picture(image: np.ndarray, name: str, **about: object) -> Picture:
    """Encode an (H, W, 3) uint8 RGB image as WebP."""
    _, content = cv2.imencode(".webp", image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 82])
    source = f"data:image/webp;base64,{base64.b64encode(content.tobytes()).decode()}"
    return Picture(source, image.shape[1], image.shape[0], name, **about)
