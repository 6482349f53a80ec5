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
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from data.cache.reader import Cache
from data.cli import UsageError
from data.io import write_text
from data.sources.images import ImageError, Images, class_names, decode, open_images
from data.synthetic.variants import MIXED, VARIANTS, binary, box, compose, tiled

NAME, VERSION = "dilo-challenge", 1  # raise the version whenever a picture changes
SMALLEST, WIDEST = 0.02, 0.8  # of the image: least foreground, largest box around it
BLOCK = 32  # images a task


def make(
    images: str | os.PathLike,
    cache: str | os.PathLike,
    out: str | os.PathLike,
    *,
    limit: int | None = None,
    seed: int = 0,
    workers: int = 1,
    progress: bool = True,
) -> dict:
    """Write the set under `out`; what is there of it already is kept, so the same call continues.

    Args:
        images: CLASS/image, a folder or tar.  cache: masks of these images.
        limit: images a class at most, evenly spaced; None takes all.
        seed: of the draws of backgrounds; they depend on nothing else than it, the image's path and
            the images used.
        workers: processes; the files do not depend on them.

    An image is used where its mask is usable, covers at least SMALLEST of it, and lies in a box of
    at most WIDEST of it, so that there is a foreground to cut out and a background to tile.

    Returns:
        what OUT/challenge.json holds: name, version, classes, "counts" by class, "left_out",
        "masks": the cache's identity, seed, limit, and "backgrounds": {path: {variant of MIXED:
        path of the image whose background it is}}.

    Raises:
        UsageError: an image without a mask in the cache, a class without a usable image, fewer than
            two classes, an image that cannot be decoded, or `out` holds something else.
    """
    images = open_images(images)
    masks = Cache(cache)
    usable, left_out = _usable(images, masks)
    names = class_names(images.paths)
    groups = {name: usable[_of(images.paths[usable], name)] for name in names}
    empty = [name for name, rows in groups.items() if not len(rows)]
    if len(names) < 2 or empty:
        raise UsageError(
            f"{images.root}: needs two classes or more (CLASS/image), each with an image whose mask can "
            f"be used; {f'class {empty[0]} has none' if empty else f'it has {len(names)}'}"
        )
    if limit is not None:
        if limit < 1:
            raise UsageError("--limit must be at least 1")
        groups = {
            name: rows[np.linspace(0, len(rows) - 1, min(limit, len(rows))).round().astype(int)]
            for name, rows in groups.items()
        }
    stems = [os.path.splitext(path)[0] for path in images.paths.tolist()]
    if len(set(stems)) < len(stems):
        raise UsageError(
            f"{images.root}: two images differ in nothing but their ending, and would become one file"
        )
    jobs = _draw(images.paths, groups, seed)
    name = {
        row: os.fsdecode(images.paths[row]) for rows in groups.values() for row in rows.tolist()
    }
    found = {
        "name": NAME,
        "version": VERSION,
        "classes": names,
        "left_out": left_out,
        "seed": seed,
        "limit": limit,
        "counts": {k: len(rows) for k, rows in groups.items()},
        "masks": masks.description["identity_hash"],
        "variants": list(VARIANTS),
        "backgrounds": {
            name[row]: {k: name[other] for k, other in others.items()} for row, others in jobs
        },
    }
    out = Path(out)
    text = json.dumps(found, indent=1) + "\n"
    if not _begin(out, text):
        return found
    blocks = [jobs[i : i + BLOCK] for i in range(0, len(jobs), BLOCK)]
    pool = (
        ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        if workers > 1
        else nullcontext()
    )
    with pool, tqdm(total=len(jobs), desc="challenge set", unit="img", disable=not progress) as bar:
        arguments = repeat(images), repeat(masks), blocks, repeat(str(out))
        for done in (pool.map if workers > 1 else map)(_write_block, *arguments):
            bar.update(done)
    os.replace(out / "challenge.json.tmp", out / "challenge.json")
    return found


def _usable(images: Images, masks: Cache) -> tuple[np.ndarray, int]:
    """(N,) rows of images that can be used, and how many others there are."""
    rows, kept = masks.require(images.paths), []
    for i, row in enumerate(rows.tolist()):
        foreground = binary(masks.mask(row), masks.side, masks.side)
        if masks.status[row] == 0 and foreground.mean() >= SMALLEST:
            top, left, bottom, right = box(foreground)
            if (bottom - top) * (right - left) <= WIDEST * masks.side**2:
                kept.append(i)
    return np.array(kept, int), len(rows) - len(kept)


def _of(paths: np.ndarray, name: str) -> np.ndarray:
    return np.char.startswith(paths, os.fsencode(name) + b"/")


def _draw(
    paths: np.ndarray, groups: dict[str, np.ndarray], seed: int
) -> list[tuple[int, dict[str, int]]]:
    """(row, {variant of MIXED: row of the image that gives the background}): of the same class, any
    class, the next."""
    names, everything, jobs = list(groups), np.concatenate(list(groups.values())), []
    for label, name in enumerate(names):
        following = groups[names[(label + 1) % len(names)]]
        for row in groups[name].tolist():
            rng = np.random.default_rng([seed, zlib.crc32(paths[row])])
            others = groups[name][groups[name] != row]
            pools = (
                others if len(others) else groups[name],
                everything[everything != row],
                following,
            )
            jobs.append(
                (row, {k: int(rng.choice(pool)) for k, pool in zip(MIXED, pools, strict=True)})
            )
    return jobs


def _begin(out: Path, text: str) -> bool:
    """Prepare the folder; False where the set is finished. UsageError where it holds something
    else."""
    finished, marker = out / "challenge.json", out / "challenge.json.tmp"
    for file in (finished, marker):
        if file.exists():
            if file.read_text() != text:
                raise UsageError(
                    f"{out}: holds a challenge set of other images, masks or options; give a new folder"
                )
            return file is marker
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: holds other files; give an empty or new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_text(marker, text)  # renamed last: until then the set is unfinished
    return True


def _write_block(
    images: Images, masks: Cache, jobs: list[tuple[int, dict[str, int]]], out: str
) -> int:
    cv2.setNumThreads(0)
    for row, others in jobs:
        path = Path(os.fsdecode(images.paths[row]))
        last = Path(out, "fg_mask", "val", path).with_suffix(".npy")
        if last.exists():  # written after the pictures: they are there
            continue
        image, foreground = _read(images, masks, row)
        backgrounds = {}
        for name, other in others.items():
            backgrounds[name] = _background(
                *_read(images, masks, other), os.fsdecode(images.paths[other])
            )
        backgrounds["only_bg_t"] = _background(image, foreground, str(path))
        for name, picture in compose(image, foreground, backgrounds).items():
            file = Path(out, name, "val", path).with_suffix(".JPEG")
            _write(
                file,
                cv2.imencode(".jpg", picture[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 95))[
                    1
                ].tobytes(),
            )
        content = io.BytesIO()
        np.save(content, foreground)
        _write(last, content.getvalue())
    return len(jobs)


def _write(file: Path, content: bytes) -> None:
    """Whole or not at all for a killed process; not brought to the disk, which would take ten times
    as long."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, file)


def _background(image: np.ndarray, foreground: np.ndarray, name: str) -> np.ndarray:
    if not foreground.any() or foreground.all():
        height, width = image.shape[:2]
        raise UsageError(
            f"{name}: {width}x{height} px are too few to cut its foreground out; leave it out"
        )
    try:
        return tiled(image, box(foreground))
    except ValueError as error:
        raise UsageError(f"{name}: {error}; leave it out") from None


def _read(images: Images, masks: Cache, row: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and its foreground, (H, W, 3) uint8 and (H, W) bool."""
    try:
        image = decode(images.read(row))
    except ImageError as error:
        raise UsageError(f"{images.root}/{os.fsdecode(images.paths[row])}: {error}") from None
    return image, binary(
        masks.mask(masks.require(images.paths[row : row + 1])[0]), *image.shape[:2]
    )
