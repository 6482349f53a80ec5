"""A set like the Backgrounds Challenge's, from any labelled images and their mask cache (`python -m
data challenge`).

    from data.synthetic.challenge import make
    make("imagenette/val", "caches/imagenette-val", "runs/challenge", limit=50)
    # then: python -m evaluate in9 --run RUN --data runs/challenge --train imagenette/train

The official layout, VARIANT/val/CLASS/NAME, with the images' own classes: `evaluate in9` reads it
with a probe on training images of the same classes. Its numbers compare with each other, never with
ImageNet-9's.
"""

import io
import os
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict

import numpy as np

from data.cache.reader import Cache
from data.cli import UsageError
from data.sources.images import ImageError, Images, class_names, decode, open_images
from data.synthetic.output import Output, write_file, write_jpeg
from data.synthetic.variants import MIXED, VARIANTS, binary, box, compose, tiled

NAME, VERSION = "dilo-challenge", 1  # raise the version whenever a picture changes
SMALLEST, WIDEST = 0.02, 0.8  # of the image: least foreground, largest box around it

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
    output = Output(out, "challenge.json", record)
    if output.before not in (None, record):
        raise UsageError(
            f"{out}: holds a challenge set of other images, masks or options; give a new folder"
        )
    if not output.finished:
        output.write(partial(_write_block, source, output.folder), jobs, workers)
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

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """An image, its foreground, and its background with the foreground's box tiled: (H, W, 3)
        uint8, (H, W) bool, (H, W, 3) uint8."""
        mask = self.masks.mask(self.masks.require(self.images.paths[row : row + 1])[0])
        try:
            image = decode(self.images.read(row))
            foreground = binary(mask, *image.shape[:2])
            return image, foreground, tiled(image, box(foreground))
        except (ImageError, ValueError) as error:
            name = f"{self.images.root}/{self.images.name(row)}"
            raise UsageError(f"{name}: {error}; leave it out") from None


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
    classes = list(groups.values())
    everything = np.concatenate(classes)
    jobs = []
    for own, following in zip(classes, [*classes[1:], classes[0]], strict=True):
        for row in own.tolist():
            rng = np.random.default_rng([seed, zlib.crc32(paths[row])])
            same = own[own != row] if len(own) > 1 else own
            pools = dict(zip(MIXED, (same, everything[everything != row], following), strict=True))
            jobs.append((row, {kind: int(rng.choice(pool)) for kind, pool in pools.items()}))
    return jobs


def _write_block(source: Source, out: Path, jobs: list[Job]) -> int:
    for row, others in jobs:
        path = Path(source.images.name(row))
        last = (out / "fg_mask" / "val" / path).with_suffix(".npy")
        if last.exists():  # written after the pictures: they are there
            continue
        image, foreground, background = source.read(row)
        backgrounds = {name: source.read(other)[2] for name, other in others.items()}
        backgrounds["only_bg_t"] = background
        for name, picture in compose(image, foreground, backgrounds).items():
            write_jpeg((out / name / "val" / path).with_suffix(".JPEG"), picture)
        content = io.BytesIO()
        np.save(content, foreground)
        write_file(last, content.getvalue())
    return len(jobs)
