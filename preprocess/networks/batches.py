"""Networks in the batch stage: workers prepare images, batches of them go through the network, maps
become rows.

On a CPU each worker has the network and does all of it, as for any estimator. With another device
the workers only decode and prepare, ahead, and the driver alone uses the device. Every batch has
the same shape, a short one is filled
up with its last image: the same command gives the same bytes, whatever was interrupted. Another
--batch, or one halved for want of memory, may move a mask by up to two levels, for a device adds in
another order then.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from data.cache.shard import STATUS, empty_rows
from data.cli import UsageError
from data.sources.images import ImageError, Images
from preprocess import estimators
from preprocess import recipe as blocks
from preprocess.quality import SIDE, quality
from preprocess.recipe import Recipe
from preprocess.refine import thumbnail

Rows = dict[str, np.ndarray]


@dataclass
class Prepared:
    """An image on its way to the network: what the network sees, and what is needed of the image
    afterwards.

    Attributes:
        network: array of the estimator's `prepare`.  pixels: (SIDE, SIDE, 3) uint8 RGB for the
            quality columns.
        thumbnail: the image that a refinement sees; None without one.
    """

    network: np.ndarray
    pixels: np.ndarray
    thumbnail: np.ndarray | None


def task(recipe: Recipe) -> Callable[[Images, Recipe], Rows]:
    """What a worker does with a block of images."""
    if not recipe.network:
        return blocks.compute_block
    return prepare_block if recipe.on_device else compute_block


def compute_block(images: Images, recipe: Recipe) -> Rows:
    """The shard rows of `images`, see preprocess.recipe.compute_block; by a network, in this
    process."""
    return _batches(recipe).rows(prepare_block(images, recipe))


def prepare_block(images: Images, recipe: Recipe) -> Rows:
    """Rows without masks, and "prepared": a Prepared for each image, None for one that failed.
    Imports no torch."""
    cv2.setNumThreads(0)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    rows = empty_rows(len(images), recipe.side, images.paths)
    rows["prepared"] = [None] * len(images)
    for i in range(len(images)):
        try:
            image = blocks.decode_row(images, i, recipe, rows)
            with blocks.failing_estimator():
                rows["prepared"][i] = Prepared(
                    _prepare(recipe)(image),
                    cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA),
                    thumbnail(image) if dict(recipe.parameters).get("refine") else None,
                )
        except ImageError as error:
            rows["status"][i] = STATUS[error.reason]
    return rows


@lru_cache(maxsize=4)
def _prepare(recipe: Recipe) -> Callable[[np.ndarray], np.ndarray]:
    parameters = {name: value for name, value in recipe.parameters if name != "refine"}
    return estimators.create(recipe.estimator, **parameters).prepare


@lru_cache(maxsize=4)
def _batches(recipe: Recipe) -> Batches:
    return Batches(blocks.load(recipe), recipe)


def infer(
    prepared: Iterator[Rows], recipe: Recipe, event: Callable[..., None], threads: int = 1
) -> Iterator[Rows]:
    """The rows of each prepared block, in order: while the device has one, the next is received and
    the last written.

    Args:
        event: called with event("out of memory", batch=N) where batches were halved to N.
        threads: that turn the network's outputs into masks.
    """
    with ThreadPoolExecutor(1) as device, ThreadPoolExecutor(max(1, threads)) as pool:
        batches = Batches(blocks.load(recipe), recipe, event, pool)
        pending: deque[Future] = deque()
        try:
            for block in prepared:
                pending.append(device.submit(batches.rows, block))
                if len(pending) > 1:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class Batches:
    """Prepared blocks through a network.

    Attributes:
        size: images a batch; halved whenever the device has not the memory for one, for the rest of
            the run.
    """

    def __init__(
        self,
        estimator: estimators.Estimator,
        recipe: Recipe,
        event: Callable[..., None] | None = None,
        pool: ThreadPoolExecutor | None = None,
    ):
        self.estimator, self.recipe, self.pool = estimator, recipe, pool
        self.event = event or _tell
        self.size = recipe.batch

    def rows(self, block: Rows) -> Rows:
        """A prepared block to shard rows."""
        prepared = block.pop("prepared", [None] * len(block["path"]))
        ready = [i for i, one in enumerate(prepared) if one is not None]
        finished = []
        for i, output in zip(
            ready, self.outputs([prepared[i].network for i in ready]), strict=True
        ):
            arguments = self._finish, block, i, output, prepared[i]
            finished.append(
                self.pool.submit(*arguments) if self.pool else arguments[0](*arguments[1:])
            )
        for future in finished:
            if future is not None:
                future.result()
        return block

    def outputs(self, inputs: list[np.ndarray]) -> Iterator[np.ndarray]:
        """The network's output for each input, in order."""
        start = 0
        while start < len(inputs):
            chunk = inputs[start : start + self.size]
            out = self._forward(np.stack(chunk + [chunk[-1]] * (self.size - len(chunk))))
            if out is None:
                continue
            yield from out[: len(chunk)]
            start += len(chunk)

    def _forward(self, batch: np.ndarray) -> np.ndarray | None:
        """None where there was not the memory: `size` is a half then."""
        import torch

        try:
            with nullcontext() if self.recipe.on_device else _one_thread():
                return self.estimator.forward(batch)
        except (torch.OutOfMemoryError, MemoryError) as error:
            if self.size == 1 and self.recipe.on_device:
                raise UsageError(
                    f"{self.recipe.device} has not the memory for one image of {self.recipe.estimator}; "
                    "free some and the same command continues, or take --device cpu"
                ) from error
            if self.size == 1:
                raise MemoryError(f"no memory for one image of {self.recipe.estimator}") from error
        except RuntimeError as error:
            what = " ".join(str(error).split())[:200]
            raise UsageError(
                f"{self.recipe.estimator} failed on {self.recipe.device} ({what}); finished shards are "
                "kept, the same command continues"
            ) from error
        self.size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.event("out of memory", batch=self.size)
        return None

    def _finish(self, rows: Rows, i: int, output: np.ndarray, prepared: Prepared) -> None:
        try:
            with blocks.failing_estimator():
                saliency = self.estimator.finish(output, prepared.thumbnail)
            blocks.store_map(saliency, i, self.recipe.side, rows)
        except ImageError as error:
            rows["status"][i] = STATUS[error.reason]
            return
        for name, value in quality(prepared.pixels, rows["mask"][i]).items():
            rows[f"quality/{name}"][i] = value


@contextmanager
def _one_thread():
    """A worker a core, a thread a worker; and sums in the same order on any number of cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tell(what: str, batch: int) -> None:
    print(f"{what}: batches of {batch} from here on", file=sys.stderr)
