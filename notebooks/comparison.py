"""Several mask caches of the same images: pictures, agreement, and scores against true masks."""

import os
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import product
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from data.cache.reader import Cache
from data.cli import UsageError
from data.io import write_bytes
from data.resize import resize
from data.sources.images import open_images
from evaluate.common import aligned
from evaluate.masks.agreement import agreement
from evaluate.masks.examples import read
from evaluate.masks.metrics import TITLES, score, summarise
from evaluate.style import axes_grid, picture, styled
from preprocess.pipeline import build
from preprocess.recipe import Recipe

METRICS = ("mae", "max_f_a", "max_f_b", "mean_f", "s", "mean_e")


def open_caches(folders: Sequence[str | os.PathLike]) -> dict[str, Cache]:
    """Caches by their estimator's name; with their folder's where two are of one estimator.

    Raises:
        CacheError: a folder is no cache.
    """
    caches = [Cache(folder) for folder in folders]
    names = [cache.identity["estimator"] for cache in caches]
    return {
        name if names.count(name) == 1 else f"{name} ({cache.folder.name})": cache
        for name, cache in zip(names, caches, strict=True)
    }


def common_paths(caches: dict[str, Cache], limit: int | None = None) -> np.ndarray:
    """(n,) bytes, sorted: images that every cache has a usable mask of; a random `limit` of them.

    Raises:
        UsageError: there is none.
    """
    paths = reduce(np.intersect1d, (c.paths[c.status == 0] for c in caches.values()))
    if not len(paths):
        raise UsageError(
            "the caches have no usable image in common: are they of the same image folder?"
        )
    chosen = np.random.default_rng(0).permutation(len(paths))[:limit]
    return paths[np.sort(chosen)]


@styled
def side_by_side(caches: dict[str, Cache], images: str | os.PathLike, paths: np.ndarray) -> Figure:
    """A row an image, a column a cache."""
    figure, axes = axes_grid(len(paths), 1 + len(caches), 1.4, 1.3)
    for i, line in enumerate(axes):
        rows = [cache.require(paths[i : i + 1])[0] for cache in caches.values()]
        image = read(next(iter(caches.values())), images, rows[0])
        picture(line[0], image, "" if i else "image")
        for axis, (name, cache), row in zip(line[1:], caches.items(), rows, strict=True):
            mask = resize(cache.mask(row), image.shape[1], image.shape[0])
            picture(axis, mask, "" if i else name)
    return figure


def agreements(caches: dict[str, Cache], paths: np.ndarray) -> np.ndarray:
    """How alike the masks of any two caches are, at the side of the first of the two.

    Returns:
        (2, k, k) float64 over k caches: mean absolute difference, mean IoU at half, both 0..1.
    """
    numbers = [agreement(_pairs(*pair, paths)) for pair in product(caches.values(), repeat=2)]
    shape = 2 * [len(caches)]
    return np.array([[n[key] for n in numbers] for key in ("mae", "iou")]).reshape(2, *shape)


@styled
def agreement_figure(caches: dict[str, Cache], paths: np.ndarray) -> Figure:
    """Both matrices of `agreements` with their numbers."""
    title = f"agreement of masks on {len(paths):,} images"
    figure, axes = axes_grid(1, 2, 1.6 + 0.8 * len(caches), 1.2 + 0.6 * len(caches), title)
    titles = ("mean absolute difference, 0 to 1", "IoU of the masks at half, 0 to 1")
    for axis, values, title in zip(axes[0], agreements(caches, paths), titles, strict=True):
        axis.imshow(values, cmap="viridis", vmin=0, vmax=1)
        axis.set_xticks(range(len(caches)), list(caches), rotation=30, ha="right")
        axis.set_yticks(range(len(caches)), list(caches))
        axis.set_title(title)
        for (y, x), value in np.ndenumerate(values):
            colour = "black" if value > 0.6 else "white"
            axis.text(x, y, f"{value:.2f}", ha="center", va="center", color=colour)
    return figure


def scores(caches: dict[str, Cache], truth: str, paths: np.ndarray) -> str:
    """A table of the masks' scores against those of a cache of true ones (ESTIMATOR=files), at the
    masks' side."""
    rows = {}
    for name, cache in caches.items():
        pairs = _pairs(cache, Cache(truth), paths)
        values = summarise([score(np.ascontiguousarray(m), true >= 128) for m, true in pairs])
        rows[name] = {TITLES[key]: f"{values[key]:.3f}" for key in METRICS}
    return "\n".join(aligned(rows))


def estimate(
    images: str | os.PathLike, names: Sequence[str], folder: str | os.PathLike, limit: int = 60
) -> list[Path]:
    """Caches of `names` on `limit` images of a folder, made where they are missing: FOLDER/NAME
    each."""
    paths = open_images(images).paths
    chosen = paths[np.linspace(0, len(paths) - 1, min(limit, len(paths))).round().astype(int)]
    file = Path(folder, "list.txt")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(file, b"\n".join(chosen.tolist()) + b"\n")
    caches = [file.with_name(name) for name in names]
    for cache in caches:
        build(os.fspath(images), str(cache), Recipe(cache.name, (), 128), listed=str(file))
    return caches


def _pairs(
    first: Cache, second: Cache, paths: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The masks of both, at the first one's side."""
    rows = zip(first.require(paths).tolist(), second.require(paths).tolist(), strict=True)
    for row, other in rows:
        yield first.mask(row), resize(second.mask(other), first.side, first.side)
