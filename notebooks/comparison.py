"""Several mask caches of the same images side by side: pictures, agreement, and scores where true
masks exist."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from data.cache.reader import Cache
from data.cli import UsageError
from evaluate.masks.gallery import read
from evaluate.masks.metrics import score, summarise
from evaluate.style import axes_grid, picture, styled

METRICS = ("mae", "max_f_a", "max_f_b", "mean_f", "s", "mean_e")


def open_caches(folders: Sequence[str | os.PathLike]) -> dict[str, Cache]:
    """Caches by their estimator's name; by their folder's where two are of one estimator.

    Raises:
        CacheError: a folder is no cache.
    """
    caches = [Cache(folder) for folder in folders]
    names = [cache.identity["estimator"] for cache in caches]
    return {
        name if names.count(name) == 1 else f"{name} ({cache.folder.name})": cache
        for name, cache in zip(names, caches, strict=True)
    }


def common_paths(caches: dict[str, Cache], limit: int | None = None, seed: int = 0) -> np.ndarray:
    """(n,) bytes, sorted: images that every cache has a usable mask of; a random `limit` of them.

    Raises:
        UsageError: there is none.
    """
    paths = None
    for cache in caches.values():
        usable = cache.paths[cache.status == 0]
        paths = usable if paths is None else np.intersect1d(paths, usable)
    if paths is None or not len(paths):
        raise UsageError(
            "the caches have no usable image in common: are they of the same image folder?"
        )
    if limit is not None and limit < len(paths):
        paths = paths[np.sort(np.random.default_rng(seed).permutation(len(paths))[:limit])]
    return paths


@styled
def side_by_side(caches: dict[str, Cache], images: str | os.PathLike, paths: np.ndarray) -> Figure:
    """A row an image, a column a cache."""
    names = list(caches)
    figure, axes = axes_grid(len(paths), 1 + len(names), 1.4, 1.3)
    first = next(iter(caches.values()))
    for line, row in zip(axes, first.require(paths).tolist(), strict=True):
        image = read(first, images, row)
        top = line[0] is axes[0, 0]  # the lines themselves are new arrays at every look
        picture(line[0], image, "image" if top else "")
        for axis, name in zip(line[1:], names, strict=True):
            mask = caches[name].mask(caches[name].require(first.paths[row : row + 1])[0])
            picture(axis, cv2.resize(mask, image.shape[1::-1]), name if top else "")
    return figure


def agreement(caches: dict[str, Cache], paths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How alike the masks of any two caches are.

    Masks of another side are brought to the first cache's.

    Returns:
        mean absolute difference (0..1) and mean IoU at half, each (k, k) float64 over k caches.
    """
    side = next(iter(caches.values())).side
    rows = {name: cache.require(paths).tolist() for name, cache in caches.items()}
    difference, overlap = np.zeros((2, len(caches), len(caches)))
    for i in range(len(paths)):
        masks = [_at(caches[name].mask(rows[name][i]), side) for name in caches]
        for a, first in enumerate(masks):
            for b, second in enumerate(masks):
                difference[a, b] += np.abs(first.astype(np.int16) - second).mean() / 255
                either = np.count_nonzero((first >= 128) | (second >= 128))
                both = np.count_nonzero((first >= 128) & (second >= 128))
                overlap[a, b] += both / either if either else 1.0
    return difference / len(paths), overlap / len(paths)


@styled
def agreement_figure(caches: dict[str, Cache], paths: np.ndarray) -> Figure:
    """Both matrices of `agreement` with their numbers."""
    figure, axes = axes_grid(
        1,
        2,
        1.6 + 0.8 * len(caches),
        1.2 + 0.6 * len(caches),
        f"agreement of masks on {len(paths):,} images",
    )
    titles = ("mean absolute difference, 0 to 1", "IoU of the masks at half, 0 to 1")
    for axis, values, title in zip(axes[0], agreement(caches, paths), titles, strict=True):
        axis.imshow(values, cmap="viridis", vmin=0, vmax=1)
        axis.set_xticks(range(len(caches)), list(caches), rotation=30, ha="right")
        axis.set_yticks(range(len(caches)), list(caches))
        axis.set_title(title)
        for (y, x), value in np.ndenumerate(values):
            axis.text(
                x,
                y,
                f"{value:.2f}",
                ha="center",
                va="center",
                color="black" if value > 0.6 else "white",
            )
    return figure


def scores(
    caches: dict[str, Cache], truth: Cache | str | os.PathLike, paths: np.ndarray
) -> dict[str, dict[str, float]]:
    """{cache: {metric of evaluate.masks.metrics: value}} of the masks against true ones, at the
    masks' side.

    Args:
        truth: a cache of true masks (ESTIMATOR=files), or its folder.
    """
    truth = truth if isinstance(truth, Cache) else Cache(truth)
    rows = truth.require(paths).tolist()
    result = {}
    for name, cache in caches.items():
        own = cache.require(paths).tolist()
        result[name] = summarise(
            [
                score(np.ascontiguousarray(cache.mask(a)), _at(truth.mask(b), cache.side) >= 128)
                for a, b in zip(own, rows, strict=True)
            ]
        )
    return result


def scores_table(result: dict[str, dict[str, float]], metrics: Sequence[str] = METRICS) -> str:
    """`scores` as aligned text, a cache a line."""
    width = max(len(name) for name in result)
    lines = [" " * width + "".join(f"{metric:>10}" for metric in metrics)]
    return "\n".join(
        lines
        + [
            f"{name:<{width}}" + "".join(f"{values[m]:10.3f}" for m in metrics)
            for name, values in result.items()
        ]
    )


def estimate(
    images: str | os.PathLike, names: Sequence[str], folder: str | os.PathLike, limit: int = 60
) -> list[Path]:
    """Caches of `names` on `limit` images of a folder, made now where they are missing: FOLDER/NAME
    each."""
    from data.sources.images import open_images
    from preprocess.pipeline import build
    from preprocess.recipe import Recipe

    paths = open_images(images).paths
    chosen = paths[np.linspace(0, len(paths) - 1, min(limit, len(paths))).round().astype(int)]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "list.txt").write_text("".join(os.fsdecode(p) + "\n" for p in chosen.tolist()))
    for name in names:
        build(
            os.fspath(images),
            os.fspath(folder / name),
            Recipe(name, (), 128),
            listed=str(folder / "list.txt"),
        )
    return [folder / name for name in names]


def _at(mask: np.ndarray, side: int) -> np.ndarray:
    return (
        mask
        if mask.shape[0] == side
        else cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA)
    )
