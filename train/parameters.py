"""The parameters of a view's colours: the columns that hold them, and the law they are drawn by."""

import numpy as np

from train.config import ViewSettings

# columns of a view's row
BRIGHTNESS, CONTRAST, SATURATION, HUE, ORDER, GREY, SIGMA, SOLARISE, PASTED, COVERAGE = range(10)
PARAMETERS = 10
ORDERS = 24  # permutations of the four operations of colour jitter
# Uniform numbers of a view's stream by what they decide. A seed means this order, so a new one is
# drawn after them; columns may come and go.
DRAWS = (
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "order",
    "whether_jitter",
    "whether_grey",
    "sigma",
    "whether_blur",
)


def draw_colours(
    rng: np.random.Generator, settings: ViewSettings, view: int, row: np.ndarray
) -> None:
    """Draw what train/photometric.py is to do with a view.

    Args:
        rng: the view's stream; DRAWS are taken from it.
        view: 0, or 1 for the second view, which may have a blur of its own.
        row: (PARAMETERS,) float32; the columns from BRIGHTNESS to SIGMA are filled. ORDER is -1
            without jitter, SIGMA 0 without blur.
    """
    drawn = dict(zip(DRAWS, rng.random(len(DRAWS)).tolist(), strict=True))
    *strengths, hue = settings.jitter
    factors = {BRIGHTNESS: "brightness", CONTRAST: "contrast", SATURATION: "saturation"}
    for (column, name), strength in zip(factors.items(), strengths, strict=True):
        low = max(0.0, 1 - strength)
        row[column] = low + (1 + strength - low) * drawn[name]
    row[HUE] = hue * (2 * drawn["hue"] - 1)
    jitters = drawn["whether_jitter"] < settings.jitter_p
    row[ORDER] = int(drawn["order"] * ORDERS) if jitters else -1
    row[GREY] = drawn["whether_grey"] < settings.grey_p
    blur_p = settings.blur_p
    if view and settings.second_blur_p is not None:
        blur_p = settings.second_blur_p
    low, high = settings.blur_sigma
    row[SIGMA] = low + (high - low) * drawn["sigma"] if drawn["whether_blur"] < blur_p else 0
