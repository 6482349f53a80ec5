"""A set like the Backgrounds Challenge's, from any labelled images and their mask cache (`python -m
data challenge`).

    from data.synthetic.challenge import make
    make("imagenette/val", "caches/imagenette-val", "runs/challenge", limit=50)
    # then: python -m evaluate in9 --run RUN --data runs/challenge --train imagenette/train

The official layout, VARIANT/val/CLASS/NAME, with the images' own classes: `evaluate in9` reads it
with a probe on training images of the same classes. Its numbers compare with each other, never with
ImageNet-9's.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict

import cv2
import numpy as np
from tqdm import tqdm

from data.cache.reader import Cache
from data.cli import UsageError
from data.io import write_bytes, write_text
from data.parallel import bounded_map
from data.sources.images import ImageError, Images, class_names, decode, open_images
from data.synthetic.variants import MIXED, VARIANTS, binary, box, compose, tiled

NAME, VERSION = "dilo-challenge", 1  # raise the version whenever a picture changes
SMALLEST, WIDEST = 0.02, 0.8  # of the image: least foreground, largest box around it
BLOCK = 32  # images a task
FINISHED, UNFINISHED = "challenge.json", "challenge.json.tmp"

# a row, and {variant of MIXED: row of the image that gives the background}
Job = tuple[int, dict[str, int]]


class Record(TypedDict):
    """What challenge.json holds: `counts` by class, `masks` the cache's identity, `backgrounds`
    {path: {variant of MIXED: path of the image whose background it is}}."""

    name: str
    version: int
    classes: list[str]
    left_out: int
    seed: int
    limit: int | None
    counts: dict[str, int]
    masks: str
    variants: list[str]
    backgrounds: dict[str, dict[str, str]]


def make(
    images: str | os.PathLike,
    cache: str | os.PathLike,
    out: str | os.PathLike,
    *,
    limit: int | None = None,
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> Record:
    """Write the set under `out`; what is there of it already is kept, so the same call continues.

    Args:
        images: CLASS/image, a folder or tar.
        cache: masks of these images.
        limit: images a class at most, evenly spaced; None takes all.
        seed: of the draws of backgrounds; they depend on nothing else than it, the image's path and
            the images used.
        workers: processes; the files do not depend on them.

    An image is used where its mask is usable, covers at least SMALLEST of it, and lies in a box of
    at most WIDEST of it, so that there is a foreground to cut out and a background to tile.

    Raises:
        UsageError: an image without a mask in the cache, a class without a usable image, fewer than
            two classes, an image that cannot be decoded, or `out` holds something else.
    """
    source = Source(open_images(images), Cache(cache))
    usable, left_out = source.usable()
    groups = _groups(source.images, usable, limit)
    jobs = _draw(source.images.paths, groups, seed)
    name = source.images.name
    record: Record = {
        "name": NAME,
        "version": VERSION,
        "classes": list(groups),
        "left_out": left_out,
        "seed": seed,
        "limit": limit,
        "counts": {label: len(rows) for label, rows in groups.items()},
        "masks": source.masks.description["identity_hash"],
        "variants": list(VARIANTS),
        "backgrounds": {
            name(row): {variant: name(other) for variant, other in others.items()}
            for row, others in jobs
        },
    }
    out = Path(out)
    if not _begin(out, json.dumps(record, indent=1) + "\n"):
        return record
    blocks = [jobs[i : i + BLOCK] for i in range(0, len(jobs), BLOCK)]
    written = bounded_map(partial(_write_block, source, out), blocks, workers if workers > 1 else 0)
    bar = tqdm(total=len(jobs), desc="challenge set", unit="img", disable=not progress)
    with closing(written), bar:
        for count in written:
            bar.update(count)
    os.replace(out / UNFINISHED, out / FINISHED)
    return record


@dataclass(frozen=True)
class Source:
    """Images and the cache of their masks."""

    images: Images
    masks: Cache

    def usable(self) -> tuple[np.ndarray, int]:
        """(N,) rows of images that can be used, and how many others there are."""
        masks, rows, kept = self.masks, self.masks.require(self.images.paths), []
        for i, row in enumerate(rows.tolist()):
            foreground = binary(masks.mask(row), masks.side, masks.side)
            if masks.status[row] == 0 and foreground.mean() >= SMALLEST:
                top, left, bottom, right = box(foreground)
                if (bottom - top) * (right - left) <= WIDEST * masks.side**2:
                    kept.append(i)
        return np.array(kept, int), len(rows) - len(kept)

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """An image and its foreground, (H, W, 3) uint8 and (H, W) bool."""
        try:
            image = decode(self.images.read(row))
        except ImageError as error:
            raise UsageError(f"{self.images.root}/{self.images.name(row)}: {error}") from None
        mask = self.masks.mask(self.masks.require(self.images.paths[row : row + 1])[0])
        return image, binary(mask, *image.shape[:2])

    def tile(self, row: int, image: np.ndarray, foreground: np.ndarray) -> np.ndarray:
        """The image with its foreground's box tiled, (H, W, 3) uint8."""
        try:
            return tiled(image, box(foreground))
        except ValueError as error:
            raise UsageError(f"{self.images.name(row)}: {error}; leave it out") from None


def _groups(images: Images, usable: np.ndarray, limit: int | None) -> dict[str, np.ndarray]:
    """{class: rows of its images that are used}."""
    if limit is not None and limit < 1:
        raise UsageError("--limit must be at least 1")
    stems = {os.path.splitext(path)[0] for path in images.paths.tolist()}
    if len(stems) < len(images):
        raise UsageError(
            f"{images.root}: two images differ in nothing but their ending, and would become one "
            "file"
        )
    groups = {}
    for name in class_names(images.paths):
        rows = usable[np.char.startswith(images.paths[usable], os.fsencode(name) + b"/")]
        count = min(limit or len(rows), len(rows))
        groups[name] = rows[np.linspace(0, len(rows) - 1, count).round().astype(int)]
    empty = [name for name, rows in groups.items() if not len(rows)]
    if len(groups) < 2 or empty:
        reason = f"class {empty[0]} has none" if empty else f"it has {len(groups)}"
        raise UsageError(
            f"{images.root}: needs two classes or more (CLASS/image), each with an image whose "
            f"mask can be used; {reason}"
        )
    return groups


def _draw(paths: np.ndarray, groups: dict[str, np.ndarray], seed: int) -> list[Job]:
    """Every image's job: backgrounds of its own class, of any class, and of the next."""
    names, everything, jobs = list(groups), np.concatenate(list(groups.values())), []
    for label, name in enumerate(names):
        following = groups[names[(label + 1) % len(names)]]
        for row in groups[name].tolist():
            rng = np.random.default_rng([seed, zlib.crc32(paths[row])])
            others = groups[name][groups[name] != row]
            same = others if len(others) else groups[name]
            pools = dict(zip(MIXED, (same, everything[everything != row], following), strict=True))
            jobs.append((row, {kind: int(rng.choice(pool)) for kind, pool in pools.items()}))
    return jobs


def _begin(out: Path, text: str) -> bool:
    """Prepare the folder; False where the set is finished. UsageError where it holds something
    else."""
    for file in (out / FINISHED, out / UNFINISHED):
        if file.exists():
            if file.read_text() != text:
                raise UsageError(
                    f"{out}: holds a challenge set of other images, masks or options; give a new "
                    "folder"
                )
            return file.name == UNFINISHED
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: holds other files; give an empty or new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / UNFINISHED, text)
    return True


def _write_block(source: Source, out: Path, jobs: list[Job]) -> int:
    for row, others in jobs:
        path = Path(source.images.name(row))
        last = (out / "fg_mask" / "val" / path).with_suffix(".npy")
        if last.exists():  # written after the pictures: they are there
            continue
        image, foreground = source.read(row)
        backgrounds = {name: source.tile(k, *source.read(k)) for name, k in others.items()}
        backgrounds["only_bg_t"] = source.tile(row, image, foreground)
        for name, picture in compose(image, foreground, backgrounds).items():
            jpeg = cv2.imencode(".jpg", picture[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 95))[1]
            _write((out / name / "val" / path).with_suffix(".JPEG"), jpeg.tobytes())
        content = io.BytesIO()
        np.save(content, foreground)
        _write(last, content.getvalue())
    return len(jobs)


def _write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(file, content, durable=False)
