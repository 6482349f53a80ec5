"""What the trainer sees: views of one image, made by the trainer's own loader and photometrics."""

from collections.abc import Sequence
from typing import get_args, get_type_hints

import numpy as np
import torch
from matplotlib.figure import Figure

from data.cache.reader import Cache
from data.sources.images import decode, open_images
from evaluate.style import axes_grid, picture, styled
from train.config import Config, PasteSettings
from train.dataset import open_training_set
from train.loader import Pairs
from train.photometric import MEAN, STD, photometric
from train.presets import change, configure


def settings(images: str, masks: str, preset: str = "moco_v2_demo", **changes) -> Config:
    """The preset's configuration, of a run that is never started; views are always pasted unless
    `changes` say so."""
    always = {"workers": 0, "paste_p": 1.0, "soften_p": 0.0}
    return configure(preset, images=images, masks=masks, out="none", **(always | changes))


def choices(option: str, config: Config) -> tuple[str, ...]:
    """The values that an option of copy-paste takes (background, control) and `config` has the
    means for: `texture` needs textures, `truth` a cache of true masks."""
    lacking = {"texture"} if config.paste.textures is None else set()
    if Cache(config.masks).identity["estimator"] != "files":
        lacking.add("truth")
    values = get_args(get_type_hints(PasteSettings)[option])
    return tuple(value for value in values if value not in lacking)


def views(config: Config, row: int, count: int, colours: bool = True) -> np.ndarray:
    """Second views (the keys: all that `swap` pastes) of the run's image `row` in epochs 0 .. count
    - 1.

    Args:
        colours: with colour jitter, greyscale and blur; without, as pasted.

    Returns:
        (count, s, s, 3) uint8 RGB.
    """
    config = change(config, batch=1, splits=1)
    dataset = Pairs(config, open_training_set(config))
    batch = dataset.__getitems__([(epoch, row) for epoch in range(count)])
    pasted = batch["views"][1]
    if not colours:
        return pasted.numpy()
    seen = photometric(pasted, batch["parameters"][1], torch.device("cpu")).permute(0, 2, 3, 1)
    pixels = (seen.numpy() * np.array(STD) + np.array(MEAN)) * 255
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


@styled
def grid(
    configs: dict[str, Config], row: int, count: int = 10, colours: bool = False, title: str = ""
) -> Figure:
    """A line of views for each configuration, of the same image with the same crops; its name at
    the left."""
    figure, axes = axes_grid(len(configs), count + 1, 1.1, 1.1, title)
    for i, (line, (name, config)) in enumerate(zip(axes, configs.items(), strict=True)):
        images = open_images(config.images, config.listed)
        picture(line[0], decode(images.read(row)), "" if i else "image")
        line[0].set_ylabel(name)
        for axis, view in zip(line[1:], views(config, row, count, colours), strict=True):
            picture(axis, view)
    return figure


def by_option(config: Config, option: str, values: Sequence) -> dict[str, Config]:
    """{name: config with `option` at each of `values`}, for `grid`; textures only where they are
    the background."""
    configs = {}
    for value in values:
        changed = change(config, **{option: value})
        if changed.paste.background != "texture":
            changed = change(changed, textures=None)
        configs[f"{option.split('_')[0]}\n{value}"] = changed
    return configs


def typical_row(config: Config) -> int:
    """The image, as a row of the run's list, whose mask covers a third of it as nearly as any."""
    images = open_images(config.images, config.listed)
    cache = Cache(config.masks)
    rows = cache.require(images.paths)
    distance = np.abs(cache.column("quality/coverage") - 1 / 3) + 9.0 * (cache.status != 0)
    return int(np.argmin(distance[rows]))
