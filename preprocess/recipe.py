"""A block of images to rows: the pure function that the driver hands to workers, here or on a
cluster."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from data.cache.shard import SCHEMA, STATUS, empty_rows
from data.cli import UsageError
from data.resize import resize
from data.sources.images import MAX_PIXELS, ImageError, Images, decode
from preprocess import estimators
from preprocess.estimators import files
from preprocess.quality import quality

BLOCK = 64  # images a task: a small set keeps every core busy, a large one costs little to schedule


@dataclass(frozen=True)
class Recipe:
    """How masks are made: picklable, and with `identity()` what a cache's identity stores.

    Attributes:
        estimator: a name of preprocess.estimators.ESTIMATORS, or "files" (maps on disk).
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

    def load(self) -> estimators.Estimator:
        """The estimator. UsageError where the file of weights is no longer the one with
        `sha256`."""
        if not self.network:
            return estimators.load(self.estimator, **dict(self.parameters))
        loaded = estimators.load(
            self.estimator,
            weights=self.weights,
            device=self.device,
            precision=self.precision,
            **dict(self.parameters),
        )
        if self.sha256 not in (None, loaded.weights):
            raise UsageError(f"{self.weights}: changed while it was in use; start again")
        return loaded

    def identity(self) -> dict:
        """The cache's identity: JSON-able, equal for equal masks."""
        if self.estimator == "files":
            version, weights, parameters = (
                files.VERSION,
                None,
                {"maps": self.maps.rstrip("/").rsplit("/", 1)[-1]},
            )
        else:
            loaded = load(self)
            version, weights, parameters = loaded.version, loaded.weights, loaded.parameters
        identity = {
            "schema": SCHEMA,
            "estimator": self.estimator,
            "version": version,
            "parameters": parameters,
            "weights": weights,
            "device": self.device.split(":")[0],
            "side": self.side,
        }
        if (
            self.max_pixels != MAX_PIXELS
        ):  # absent where the option is left alone; it decides which images are refused
            identity["max_pixels"] = self.max_pixels
        return identity


@lru_cache(maxsize=4)
def load(recipe: Recipe) -> estimators.Estimator:
    return recipe.load()


def compute_block(images: Images, recipe: Recipe) -> dict[str, np.ndarray]:
    """The shard rows of `images`: one that fails gets a status and an all-zero mask, and never
    stops the run.

    Returns:
        rows as data.cache.shard.empty_rows, in the order of `images`.

    Raises:
        MemoryError: no memory for an image; the driver then tries it alone.
    """
    cv2.setNumThreads(0)
    cv2.utils.logging.setLogLevel(
        cv2.utils.logging.LOG_LEVEL_SILENT
    )  # what is wrong with an image is in its status
    rows = empty_rows(len(images), recipe.side, images.paths)
    for i in range(len(images)):
        try:
            _compute_row(images, i, recipe, rows)
        except ImageError as error:
            rows["mask"][i] = 0
            rows["status"][i] = STATUS[error.reason]
    return rows


def crashed_row(images: Images, recipe: Recipe) -> dict[str, np.ndarray]:
    """The row of one image on which the worker dies: its digest, so that a later run knows it
    again, and its status."""
    rows = empty_rows(1, recipe.side, images.paths)
    with contextlib.suppress(ImageError):
        rows["digest"][0] = digest(images.read(0))
    rows["status"][0] = STATUS["crashed"]
    return rows


def digest(content: bytes) -> np.ndarray:
    """(16,) uint8: BLAKE2b-128 of a file's bytes."""
    return np.frombuffer(hashlib.blake2b(content, digest_size=16).digest(), np.uint8)


def decode_row(images: Images, i: int, recipe: Recipe, rows: dict[str, np.ndarray]) -> np.ndarray:
    """Image `i` as (H, W, 3) uint8 RGB; its digest and size go into its row. ImageError where it
    cannot be used."""
    content = images.read(i)
    rows["digest"][i] = digest(content)
    image = decode(content, recipe.max_pixels)
    rows["size"][i] = image.shape[:2]
    return image


@contextlib.contextmanager
def failing_estimator():
    """Whatever an estimator does on an odd image, the run goes on: ImageError("estimator"), but for
    want of memory."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ImageError("estimator", f"{type(error).__name__}: {error}") from error


def store_map(saliency: np.ndarray, i: int, side: int, rows: dict[str, np.ndarray]) -> None:
    """A float32 (h, w) map in [0, 1] to row `i`'s (side, side) uint8 mask. ImageError where it is
    not finite."""
    if not np.isfinite(saliency).all():
        raise ImageError("estimator", "the map is not finite")
    mask = resize(saliency, side, side)
    rows["mask"][i] = np.rint(np.clip(mask, 0, 1) * 255)


def _compute_row(images: Images, i: int, recipe: Recipe, rows: dict[str, np.ndarray]) -> None:
    image = decode_row(images, i, recipe, rows)
    if recipe.estimator == "files":
        saliency = files.read_map(recipe.maps, images.paths[i])
    else:
        with failing_estimator():
            saliency = load(recipe).working(image)
    store_map(saliency, i, recipe.side, rows)
    for name, value in quality(image, rows["mask"][i]).items():
        rows[f"quality/{name}"][i] = value
