"""What the trainer really sees: views of one image, made by the trainer's own loader and
photometrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args, get_type_hints

import numpy as np
import torch
from matplotlib.figure import Figure

from data.cache.reader import Cache
from data.sources.images import Images, decode, open_images
from evaluate.style import axes_grid, picture, styled
from train.backgrounds import make_donors
from train.config import Config
from train.loader import make_loader
from train.masks import make_masks
from train.photometric import MEAN, STD, photometric
from train.presets import PRESETS


def settings(images: str, masks: str, preset: str = "moco_v2_demo", **changes) -> Config:
    """The preset's configuration, of a run that is never started; views are always pasted unless
    `changes` say so."""
    return Config(
        **{
            "images": images,
            "masks": masks,
            "out": "none",
            "preset": preset,
            "workers": 0,
            **PRESETS[preset](),
            "paste_p": 1.0,
            "soften_p": 0.0,
            **changes,
        }
    )


def choices(option: str, config: Config) -> tuple[str, ...]:
    """The values that an option of `python -m train` takes (background, control) and `config` has
    the means for: `texture` needs textures, `truth` a cache of true masks."""
    true = Cache(config.masks).identity["estimator"] == "files"
    lacking = ({"texture"} if config.textures is None else set()) | (set() if true else {"truth"})
    return tuple(
        value for value in get_args(get_type_hints(Config)[option]) if value not in lacking
    )


def views(config: Config, row: int, count: int, colours: bool = True) -> np.ndarray:
    """Second views (the keys: all that `swap` pastes) of the run's image `row` in epochs 0 .. count
    - 1.

    Args:
        colours: with colour jitter, greyscale and blur; without, as pasted.

    Returns:
        (count, s, s, 3) uint8 RGB.
    """
    images = open_images(config.images, config.list)
    cache, rows = _masks(config, images)
    dataset = make_loader(
        replace(config, batch=1),
        images,
        make_masks(config, cache, rows),
        0,
        pin_memory=False,
        donors=make_donors(config, images, cache, rows),
    ).dataset
    batch = dataset.__getitems__([(epoch, row) for epoch in range(count)])
    if not colours:
        return batch["views"][1].numpy()
    shown = (
        photometric(batch["views"][1], batch["parameters"][1], torch.device("cpu"))
        .permute(0, 2, 3, 1)
        .numpy()
    )
    return np.clip(np.rint((shown * np.array(STD) + np.array(MEAN)) * 255), 0, 255).astype(np.uint8)


@styled
def grid(
    rows: dict[str, Config], row: int, count: int = 10, colours: bool = False, title: str = ""
) -> Figure:
    """A line of views for each configuration, of the same image with the same crops; its name at
    the left."""
    figure, axes = axes_grid(len(rows), count + 1, 1.1, 1.1, title)
    for line, (name, config) in zip(axes, rows.items(), strict=True):
        images = open_images(config.images, config.list)
        picture(line[0], decode(images.read(row)), "image" if line[0] is axes[0, 0] else "")
        line[0].set_ylabel(name)
        for axis, view in zip(line[1:], views(config, row, count, colours), strict=True):
            picture(axis, view)
    return figure


def by_option(config: Config, option: str, values: Sequence) -> dict[str, Config]:
    """{name: config with `option` at each of `values`}, for `grid`; textures only where they are
    the background."""
    made = {
        f"{option.split('_')[0]}\n{value}": replace(config, **{option: value}) for value in values
    }
    return {
        name: one if one.background == "texture" else replace(one, textures=None)
        for name, one in made.items()
    }


def typical_row(config: Config) -> int:
    """The image, as a row of the run's list, whose mask covers a third of it as nearly as any."""
    images = open_images(config.images, config.list)
    cache = Cache(config.masks)
    rows = cache.require(images.paths)
    distance = np.abs(cache.column("quality/coverage") - 1 / 3) + 9.0 * (cache.status != 0)
    return int(np.argmin(distance[rows]))


def _masks(config: Config, images: Images) -> tuple[Cache | None, np.ndarray | None]:
    if config.masks == "none":
        return None, None
    cache = Cache(config.masks)
    return cache, cache.require(images.paths)
