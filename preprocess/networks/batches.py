"""Networks in the batch stage: workers prepare images, batches of them go through the network, maps
become rows.

On a CPU each worker has the network and does all of it, as for any estimator. With another device
the workers only decode and prepare, ahead, and the driver alone uses the device. Every batch has
the same shape, a short one is filled up with its last image: the same command gives the same bytes,
whatever was interrupted. Another --batch, or one halved for want of memory, may move a mask by up
to two levels, for a device adds in another order then.
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

from data.cache.shard import STATUS, Rows, empty_rows
from data.cli import UsageError
from data.sources.images import ImageError, Images
from preprocess import estimators
from preprocess import recipe as blocks
from preprocess.quality import SIDE
from preprocess.recipe import Recipe
from preprocess.refine import thumbnail


@dataclass
class Prepared:
    """An image on its way to the network: what the network sees, and what is needed of the image
    afterwards.

    Attributes:
        network: array of the estimator's `prepare`.
        pixels: (SIDE, SIDE, 3) uint8 RGB for the quality columns.
        thumbnail: the image that a refinement sees; None without one.
    """

    network: np.ndarray
    pixels: np.ndarray
    thumbnail: np.ndarray | None


def work_of(recipe: Recipe) -> Callable[[Images, Recipe], Rows]:
    """What a worker does with a block of images."""
    if not recipe.network:
        return blocks.compute_block
    return prepare_block if recipe.on_device else compute_block


def compute_block(images: Images, recipe: Recipe) -> Rows:
    """The shard rows of `images`, see preprocess.recipe.compute_block; by a network, in this
    process."""
    with blocks.quiet_opencv():
        return _batches(recipe).rows(prepare_block(images, recipe))


def prepare_block(images: Images, recipe: Recipe) -> Rows:
    """Rows without masks, and "prepared": a Prepared for each image, None for one that failed.
    Imports no torch."""
    rows = empty_rows(images.paths, recipe.side)
    prepared: list[Prepared | None] = [None] * len(images)
    with blocks.quiet_opencv():
        for i in range(len(images)):
            try:
                image = blocks.decode_row(images, i, recipe, rows)
                with blocks.failing_estimator():
                    prepared[i] = _prepared(image, recipe)
            except ImageError as error:
                rows["status"][i] = STATUS[error.reason]
    return rows | {"prepared": prepared}


def _prepared(image: np.ndarray, recipe: Recipe) -> Prepared:
    pixels = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    refined = dict(recipe.parameters).get("refine")
    return Prepared(_prepare(recipe)(image), pixels, thumbnail(image) if refined else None)


@lru_cache(maxsize=4)
def _prepare(recipe: Recipe) -> Callable[[np.ndarray], np.ndarray]:
    parameters = {name: value for name, value in recipe.parameters if name != "refine"}
    return estimators.create(recipe.estimator, **parameters).prepare


@lru_cache(maxsize=4)
def _batches(recipe: Recipe) -> Batches:
    return Batches(blocks.load(recipe), recipe)


def joined(parts: list[Rows]) -> Rows:
    """The rows of several blocks as one; a part without "prepared" has none that could be."""
    columns = [name for name in parts[0] if name != "prepared"]
    rows = {name: np.concatenate([part[name] for part in parts]) for name in columns}
    if any("prepared" in part for part in parts):
        lists = [part.get("prepared", [None] * len(part["path"])) for part in parts]
        rows["prepared"] = [prepared for part in lists for prepared in part]
    return rows


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
        self.estimator = estimator
        self.recipe = recipe
        self.event = event or _print_event
        self.pool = pool
        self.size = recipe.batch

    def rows(self, block: Rows) -> Rows:
        """A prepared block to shard rows."""
        prepared = block.pop("prepared", [None] * len(block["path"]))
        ready = [i for i, item in enumerate(prepared) if item is not None]
        outputs = self.outputs([prepared[i].network for i in ready])
        futures = []
        for i, output in zip(ready, outputs, strict=True):
            if self.pool is None:
                self._finish(block, i, output, prepared[i])
            else:
                futures.append(self.pool.submit(self._finish, block, i, output, prepared[i]))
        for future in futures:
            future.result()
        return block

    def outputs(self, inputs: list[np.ndarray]) -> Iterator[np.ndarray]:
        """The network's output for each input, in order."""
        start = 0
        while start < len(inputs):
            chunk = inputs[start : start + self.size]
            outputs = self._forward(np.stack(chunk + [chunk[-1]] * (self.size - len(chunk))))
            if outputs is None:
                continue
            yield from outputs[: len(chunk)]
            start += len(chunk)

    def _forward(self, batch: np.ndarray) -> np.ndarray | None:
        """None where there was not the memory: `size` is a half then."""
        import torch

        try:
            with nullcontext() if self.recipe.on_device else _one_thread():
                return self.estimator.forward(batch)
        except (torch.OutOfMemoryError, MemoryError) as error:
            if self.size == 1:
                raise self._no_memory() from error
        except RuntimeError as error:
            what = " ".join(str(error).split())[:200]
            raise UsageError(
                f"{self.recipe.estimator} failed on {self.recipe.device} ({what}); finished shards "
                "are kept, the same command continues"
            ) from error
        self.size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.event("out of memory", batch=self.size)
        return None

    def _no_memory(self) -> Exception:
        """What is raised where not even one image fits: a worker's block is tried alone."""
        if not self.recipe.on_device:
            return MemoryError(f"no memory for one image of {self.recipe.estimator}")
        return UsageError(
            f"{self.recipe.device} has not the memory for one image of {self.recipe.estimator}; "
            "free some and the same command continues, or take --device cpu"
        )

    def _finish(self, rows: Rows, i: int, output: np.ndarray, prepared: Prepared) -> None:
        try:
            with blocks.failing_estimator():
                saliency = self.estimator.finish(output, prepared.thumbnail)
            blocks.store_map(saliency, i, self.recipe.side, rows)
        except ImageError as error:
            rows["status"][i] = STATUS[error.reason]
            return
        blocks.store_quality(prepared.pixels, i, rows)


@contextmanager
def _one_thread() -> Iterator[None]:
    """A worker a core, a thread a worker; and sums in the same order on any number of cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _print_event(what: str, batch: int) -> None:
    print(f"{what}: batches of {batch} from here on", file=sys.stderr)
