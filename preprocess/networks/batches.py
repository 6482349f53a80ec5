"""Networks in the batch stage: workers prepare images, batches of them go through the network, maps
become rows.

On a CPU each worker has the network and does all of it, as for any estimator. With another device
the workers only decode and prepare, ahead, and the driver alone uses the device. Every batch has
the same shape, a short one is filled up with its last image: the same command gives the same bytes,
whatever was interrupted. Another --batch, or one halved for want of memory, may move a mask by up
to two levels, for a device adds in another order then.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import NamedTuple

import cv2
import numpy as np

from data.cache.shard import Rows, empty_rows
from data.cli import UsageError, note
from data.sources.images import Images
from preprocess import estimators
from preprocess import recipe as blocks
from preprocess.quality import SIDE
from preprocess.recipe import Recipe
from preprocess.refine import REFINE, thumbnail


class Prepared(NamedTuple):
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


def work_of(recipe: Recipe) -> Callable[[Images], Rows]:
    """What a worker does with a block of images."""
    of_network = prepare_block if recipe.on_device else compute_block
    return partial(of_network if recipe.network else blocks.compute_block, recipe=recipe)


def compute_block(images: Images, recipe: Recipe) -> Rows:
    """The shard rows of `images`, see preprocess.recipe.compute_block; by a network, in this
    process."""
    with blocks.one_opencv_thread():
        return _batches(recipe).rows(prepare_block(images, recipe))


def prepare_block(images: Images, recipe: Recipe) -> Rows:
    """Rows without masks, and "prepared": a Prepared for each image, None for one that failed.
    Imports no torch."""
    rows = empty_rows(images.paths, recipe.side)
    rows["prepared"] = np.full(len(images), None)
    parameters = dict(recipe.parameters)
    refined = parameters.pop("refine", None)
    prepare = estimators.create(recipe.estimator, **parameters).prepare
    with blocks.one_opencv_thread():
        for i in range(len(images)):
            with blocks.failing_row(rows, i):
                image, _ = blocks.decode_row(images, i, recipe, rows)
                pixels = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
                small = thumbnail(image) if refined else None
                rows["prepared"][i] = Prepared(prepare(image), pixels, small)
    return rows


def infer(prepared: Iterator[Rows], recipe: Recipe, threads: int = 1) -> Iterator[Rows]:
    """The rows of each prepared block, in order: while the device has one, the next is received and
    the last written.

    Args:
        threads: that turn the network's outputs into masks.
    """
    with ThreadPoolExecutor(1) as device, ThreadPoolExecutor(max(1, threads)) as pool:
        batches, before = Batches(recipe, pool.map), None
        for block in prepared:
            rows = device.submit(batches.rows, block)
            if before:
                yield before.result()
            before = rows
        if before:
            yield before.result()


class Batches:
    """Prepared blocks through a network.

    Attributes:
        size: images a batch; halved whenever the device has not the memory for one, for the rest of
            the run.
    """

    def __init__(self, recipe: Recipe, each: Callable[..., Iterator] = map):
        self.network = blocks.load(recipe)
        self.refine = REFINE.get(dict(recipe.parameters).get("refine"))
        if self.refine:
            self.network = self.network.estimator
        self.recipe = recipe
        self.each = each
        self.size = recipe.batch

    def rows(self, block: Rows) -> Rows:
        """A prepared block to shard rows."""
        prepared = block.pop("prepared")
        ready = [i for i, item in enumerate(prepared) if item is not None]

        def finish(i: int, output: np.ndarray) -> None:
            with blocks.failing_row(block, i):
                saliency = self.network.architecture.finish(np.ascontiguousarray(output))
                if self.refine:
                    saliency = self.refine(prepared[i].thumbnail, saliency)
                blocks.store(saliency, prepared[i].pixels, block, i)

        list(self.each(finish, ready, self.outputs([prepared[i].network for i in ready])))
        return block

    def outputs(self, inputs: list[np.ndarray]) -> Iterator[np.ndarray]:
        """The network's output for each input, in order."""
        while inputs:
            chunk = inputs[: self.size]
            try:
                filled = chunk + [chunk[-1]] * (self.size - len(chunk))
                outputs = self.network.forward(np.stack(filled))
            except MemoryError as error:
                self._halve(error)
                continue
            except RuntimeError as error:
                what = " ".join(str(error).split())[:200]
                raise UsageError(
                    f"{self.recipe.estimator} failed on {self.recipe.device} ({what}); finished "
                    "shards are kept, the same command continues"
                ) from error
            yield from outputs[: len(chunk)]
            inputs = inputs[len(chunk) :]

    def _halve(self, error: MemoryError) -> None:
        if self.size == 1 and not self.recipe.on_device:
            raise error  # a worker's block is tried alone
        if self.size == 1:
            raise UsageError(
                f"{self.recipe.device} has not the memory for one image of "
                f"{self.recipe.estimator}; free some and the same command continues, or take "
                "--device cpu"
            ) from error
        self.size //= 2
        note(f"out of memory: batches of {self.size} from here on")


_batches = lru_cache(maxsize=4)(Batches)  # of a worker, which gets many blocks of one recipe
