"""Pictures inside the page: figures that lie in run folders, and masks of the caches that runs were
trained with."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from data.cache.reader import Cache
from data.sources.images import ImageError, decode, open_images, read_bytes
from evaluate.masks.gallery import overlay, rows_by_quality
from evaluate.report.collect import Run
from evaluate.report.markup import Markup, join, tag

WIDE = 1200  # pixels that a figure has at most across
LARGE = 32 << 20  # bytes of a picture's file that are read at most
SIDE = 128  # height of an image of the gallery, in pixels
SHOW_FIRST = ("first_batch",)


def data_uri(image: np.ndarray, quality: int = 82) -> str:
    """An (H, W, 3) uint8 RGB picture as a data URI of a WebP file."""
    done, content = cv2.imencode(".webp", image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])
    if not done:
        raise ValueError("a picture that cannot be encoded")
    return f"data:image/webp;base64,{base64.b64encode(content.tobytes()).decode()}"


def shrink(image: np.ndarray, wide: int = WIDE) -> np.ndarray:
    """The picture at most `wide` pixels across and three times as high."""
    scale = min(1.0, wide / image.shape[1], 3 * wide / image.shape[0])
    if scale == 1:
        return image
    return cv2.resize(
        image,
        (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))),
        interpolation=cv2.INTER_AREA,
    )


def figures(runs: list[Run], count: int, notes: list[str]) -> Markup:
    """At most `count` PNG files of every run; one that cannot be decoded gives a note."""
    shown = []
    for run in runs:
        chosen = sorted(run.pictures, key=lambda file: (file.stem not in SHOW_FIRST, file.name))[
            :count
        ]
        if len(run.pictures) > len(chosen) and count:
            notes.append(
                f"{run.path}: {len(run.pictures) - len(chosen)} more pictures; --pictures shows them"
            )
        for file in chosen:
            try:
                if file.stat().st_size > LARGE:
                    raise ValueError(f"larger than {LARGE >> 20} MB")
                image = shrink(decode(file.read_bytes()))
                picture = tag(
                    "img",
                    src=data_uri(image),
                    alt=f"{file.stem} of {run.name}",
                    width=image.shape[1],
                    height=image.shape[0],
                    loading="lazy",
                )
                wide = (
                    image.shape[1] > WIDE // 2
                )  # needs the whole row, and on a phone scrolls by itself
                shown.append(
                    tag(
                        "figure",
                        tag("div", picture, class_="scroll", tabindex="0") if wide else picture,
                        tag("figcaption", tag("bdi", run.name), ": ", tag("bdi", file.name)),
                        class_="wide" if wide else None,
                    )
                )
            except (ImageError, ValueError, OSError) as error:
                notes.append(f"{file}: {error}")
    return tag("div", *shown, class_="pictures") if shown else Markup("")


def gallery(runs: list[Run], count: int, notes: list[str]) -> Markup:
    """`count` masks of every cache that a run was trained with, from little coverage to much:
    image, mask, overlay."""
    used: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        masks, images = run.config.get("masks"), run.config.get("images")
        if isinstance(masks, str) and isinstance(images, str) and masks != "none" and count:
            used.setdefault((masks, images), []).append(run.name)
    parts = []
    for (masks, images), names in used.items():
        try:
            strips = _strips(Path(masks), images, count)
        except (ImageError, ValueError, OSError, KeyError, TypeError) as error:
            notes.append(f"{masks}: no masks to show ({error})")
            continue
        parts.append(
            join(
                [
                    tag("h3", tag("bdi", Path(masks).name), f", {strips[0]}"),
                    tag(
                        "p",
                        "used by ",
                        tag("bdi", ", ".join(names)),
                        "; image, mask, and what the mask keeps",
                    ),
                    tag("div", *strips[1:], class_="masks"),
                ]
            )
        )
    return join(parts)


def _strips(folder: Path, images: str, count: int) -> list:
    """The estimator's name, then a figure an image."""
    cache = Cache(folder)
    read = _reader(images)
    parts: list = [str(cache.identity.get("estimator", ""))]
    for row in rows_by_quality(cache, "coverage", count).tolist():
        path, mask = cache.paths[row], cache.mask(row)
        try:
            image = decode(read(path))
        except ImageError:
            continue  # a run may use any part of a cache's images
        scale = SIDE / image.shape[0]
        image = cv2.resize(
            image,
            (min(3 * SIDE, max(1, round(image.shape[1] * scale))), SIDE),
            interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR,
        )
        grey = cv2.cvtColor(cv2.resize(mask, image.shape[1::-1]), cv2.COLOR_GRAY2RGB)
        strip = np.concatenate([image, grey, overlay(image, mask)], 1)
        name = os.fsdecode(path)
        parts.append(
            tag(
                "figure",
                tag(
                    "img",
                    src=data_uri(strip),
                    alt=f"{name}: image, mask, overlay",
                    width=strip.shape[1],
                    height=strip.shape[0],
                    loading="lazy",
                ),
                tag("figcaption", tag("bdi", name), f", covers {mask.mean() / 255:.0%}"),
            )
        )
    if len(parts) == 1:
        raise ValueError("none of its images is in the run's image folder")
    return parts


def _reader(images: str) -> Callable[[bytes], bytes]:
    """path -> an image file's bytes; a folder is not listed for it. ImageError where there is no
    such image."""
    if os.path.isdir(images):
        return lambda path: read_bytes(images, path)
    source = open_images(images)
    places = {path: i for i, path in enumerate(source.paths.tolist())}

    def read(path: bytes) -> bytes:
        if path not in places:
            raise ImageError("missing", "not in the archive")
        return source.read(places[path])

    return read
