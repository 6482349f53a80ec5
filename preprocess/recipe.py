"""How masks are made, and the pure function that makes the rows of a block of images: what the
driver hands to its workers, here or on a cluster."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

import cv2
import numpy as np

from data.cache.shard import SCHEMA, STATUS, Rows, empty_rows
from data.cli import UsageError
from data.resize import resize
from data.sources.images import MAX_PIXELS, ImageError, Images, decode, read_bytes
from preprocess import estimators
from preprocess.estimators import files
from preprocess.quality import quality

BLOCK = 64  # images a task: a small set keeps every core busy, a large one costs little to schedule


@dataclass(frozen=True)
class Recipe:
    """How masks are made: picklable, and with `identity()` what a cache's identity stores.

    Attributes:
        estimator: a name of preprocess.estimators, or "files" (maps on disk).
        parameters: sorted (name, value) pairs.
        side: S, pixels of the stored mask's side.
        maps: folder of maps for "files".
        max_pixels: larger images are refused by their header.
        weights, sha256: of a network: its file, and the file's SHA-256 where that is known already.
        device, precision: of a network, see preprocess.estimators.load.
        batch: images that a network takes at once.
    """

    estimator: str
    parameters: tuple[tuple[str, object], ...] = ()
    side: int = 128
    maps: str | None = None
    max_pixels: int = MAX_PIXELS
    weights: str | None = None
    sha256: str | None = None
    device: str = "cpu"
    precision: str = "fp32"
    batch: int = 4

    @property
    def network(self) -> bool:
        return self.estimator in estimators.NETWORKS

    @property
    def on_device(self) -> bool:
        """True where the driver computes, on a device that workers do not share."""
        return self.network and self.device != "cpu"

    @property
    def block(self) -> int:
        """Images a task: BLOCK, or as many more as make whole batches."""
        return -(-BLOCK // self.batch) * self.batch if self.network else BLOCK

    def absolute(self) -> Self:
        """The same recipe for processes that run in another folder."""
        maps, weights = (path and os.path.abspath(path) for path in (self.maps, self.weights))
        return replace(self, maps=maps, weights=weights)

    def load(self) -> estimators.Estimator:
        """The estimator. UsageError where the file of weights is no longer the one with
        `sha256`."""
        if self.estimator == "files":
            return files.Files(self.maps)
        options = dict(self.parameters)
        if self.network:
            options |= {name: getattr(self, name) for name in ("weights", "device", "precision")}
        loaded = estimators.load(self.estimator, **options)
        if self.sha256 not in (None, loaded.weights):
            raise UsageError(f"{self.weights}: changed while it was in use; start again")
        return loaded

    def identity(self) -> dict:
        """The cache's identity: JSON-able, equal for equal masks."""
        loaded = load(self)
        identity = {
            "schema": SCHEMA,
            "estimator": self.estimator,
            "version": loaded.version,
            "parameters": loaded.parameters,
            "weights": loaded.weights,
            "device": self.device.split(":")[0],
            "side": self.side,
        }
        if self.max_pixels != MAX_PIXELS:  # it decides which images are refused
            identity["max_pixels"] = self.max_pixels
        return identity

    def keys(self, images: Images) -> np.ndarray:
        """What each row is made from: (N, 2) int64, length and mtime (ns) of the image's file; with
        "files" (N, 4), the same of the map's file beside. Zeros where there is no file."""
        keys = images.stat()
        if self.estimator != "files":
            return keys
        of_maps = np.zeros_like(keys)
        for i, path in enumerate(images.paths.tolist()):
            with contextlib.suppress(OSError):
                status = os.stat(files.map_file(self.maps, path))
                of_maps[i] = status.st_size, status.st_mtime_ns
        return np.hstack([keys, of_maps])


@lru_cache(maxsize=4)
def load(recipe: Recipe) -> estimators.Estimator:
    return recipe.load()


def compute_block(images: Images, recipe: Recipe) -> Rows:
    """The shard rows of `images`, in their order, but for the keys: one that fails gets a status
    and an all-zero mask, and never stops the run.

    Raises:
        MemoryError: no memory for an image; the driver then tries it alone.
    """
    rows = empty_rows(images.paths, recipe.side)
    with one_opencv_thread():
        for i in range(len(images)):
            with failing_row(rows, i):
                image, content = decode_row(images, i, recipe, rows)
                saliency = load(recipe).map_of(image, images.paths[i], content)
                store(saliency, image, rows, i)
    return rows


@contextlib.contextmanager
def one_opencv_thread() -> Iterator[None]:
    """OpenCV in one thread, since there is a process a core."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


@contextlib.contextmanager
def failing_row(rows: Rows, i: int) -> Iterator[None]:
    """Whatever fails on image `i`, but for want of memory, costs its row alone: a status, and an
    empty mask."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # an estimator on an odd image may raise anything
        rows["mask"][i] = 0
        rows["status"][i] = STATUS[error.reason if isinstance(error, ImageError) else "estimator"]


def crashed_row(images: Images, recipe: Recipe) -> Rows:
    """The row of one image on which the worker dies."""
    rows = empty_rows(images.paths, recipe.side)
    with contextlib.suppress(ImageError):
        rows["digest"][0] = read_source(images, 0, recipe)[1]
    rows["status"][0] = STATUS["crashed"]
    if recipe.on_device:
        rows["prepared"] = np.array([None])  # see preprocess.networks.batches
    return rows


def read_source(images: Images, i: int, recipe: Recipe) -> tuple[bytes, np.ndarray]:
    """Image `i`'s file, and (16,) uint8: BLAKE2b-128 of all that its row is made from, which is
    this file, and with "files" the map's file after it. ImageError where it cannot be read."""
    content = images.read(i)
    digest = hashlib.blake2b(content, digest_size=16)
    if recipe.estimator == "files":
        with contextlib.suppress(ImageError):
            file = os.fsencode(files.map_file(recipe.maps, images.paths[i]))
            digest.update(read_bytes("", file))
    return content, np.frombuffer(digest.digest(), np.uint8)


def decode_row(images: Images, i: int, recipe: Recipe, rows: Rows) -> tuple[np.ndarray, bytes]:
    """Image `i` as (H, W, 3) uint8 RGB, and its file; its digest and size go into its row.
    ImageError where it cannot be used."""
    content, rows["digest"][i] = read_source(images, i, recipe)
    image = decode(content, recipe.max_pixels)
    rows["size"][i] = image.shape[:2]
    return image, content


def store(saliency: np.ndarray, image: np.ndarray, rows: Rows, i: int) -> None:
    """A float32 (h, w) map in [0, 1] to row `i`'s (side, side) uint8 mask, with its statistics on
    the image, uint8 RGB of any size. ValueError where it is not finite."""
    if not np.isfinite(saliency).all():
        raise ValueError("the map is not finite")
    side = rows["mask"].shape[1]
    rows["mask"][i] = np.rint(np.clip(resize(saliency, side, side), 0, 1) * 255)
    for name, value in quality(image, rows["mask"][i]).items():
        rows[f"quality/{name}"][i] = value
