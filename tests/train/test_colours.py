"""A CPU's compiled colours against torchvision's functions and against a GPU's batched ones."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, ks_2samp
from torchvision.transforms import ColorJitter, GaussianBlur
from torchvision.transforms import functional as tv

from train import parameters as column
from train.colours import MEAN, ORDERS, STD, colours
from train.config import ViewSettings
from train.parameters import draw_colours
from train.photometric import batched, normalise, photometric
from train.streams import VIEW, stream

FACTORS = [column.BRIGHTNESS, column.CONTRAST, column.SATURATION, column.HUE]
FUNCTIONS = tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue
ADJUST = dict(zip(FACTORS, FUNCTIONS, strict=True))


def draw(count: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures with flat, grey, black and white parts, and parameters of every kind."""
    rng = np.random.default_rng(side)
    views = rng.integers(0, 256, (count, side, side, 3)).astype(np.uint8)
    views[:, :3] = rng.integers(0, 256, (count, 1, 1, 3))
    views[:, 3:5] = views[:, 3:5, :, :1]
    views[:, 5, :8], views[:, 5, 8:16] = 0, 255
    parameters = np.zeros((count, column.PARAMETERS), np.float32)
    parameters[:, FACTORS[:3]] = rng.uniform(0.2, 1.8, (count, 3))
    parameters[:, column.HUE] = rng.uniform(-0.5, 0.5, count)
    parameters[:, column.ORDER] = np.arange(count) % 25 - 1  # every order, and none
    parameters[:, column.GREY] = rng.random(count) < 0.2
    parameters[:, column.SIGMA] = np.where(rng.random(count) < 0.5, rng.uniform(0.1, 2, count), 0)
    parameters[:, column.SOLARISE] = rng.random(count) < 0.2
    return torch.from_numpy(views), torch.from_numpy(parameters)


def torchvisions(view: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    picture = view.permute(2, 0, 1).float() / 255
    if row[column.ORDER] >= 0:
        for operation in ORDERS[int(row[column.ORDER])].tolist():
            picture = ADJUST[operation](picture, row[operation].item())
    if row[column.GREY]:
        picture = tv.rgb_to_grayscale(picture, 3)
    if row[column.SIGMA]:
        picture = tv.gaussian_blur(picture, [31, 31], [row[column.SIGMA].item()])
    return tv.normalize(picture, MEAN, STD)


def test_every_order_of_operations_is_torchvisions():
    views, parameters = draw(100, 40)
    parameters[:, column.SOLARISE] = 0  # it jumps at one half, where the last digit decides
    for i, ours in enumerate(photometric(views, parameters, torch.device("cpu"))):
        # its luma has rounded weights
        assert (ours - torchvisions(views[i], parameters[i])).abs().max() < 2e-3, parameters[i]


@pytest.mark.parametrize("side", [12, 33, 50, 96])  # 50 * 50 is no whole number of pieces
def test_compiled_and_batched_agree(side):
    views, parameters = draw(60, side)
    one = torch.from_numpy(colours(views.numpy(), parameters.numpy()))
    other = batched(views, parameters)
    undecided = (other - 0.5).abs() < 1e-5
    difference = (one.permute(0, 3, 1, 2) - normalise(other)).abs()
    assert difference[~undecided].max() < 1e-4
    strided = colours(torch.stack([views, views], 1)[:, 1].numpy(), parameters.numpy())
    assert np.array_equal(strided, one.numpy())


def test_jitter_and_blur_follow_torchvisions_law():
    torch.manual_seed(0)
    settings = ViewSettings(jitter=(0.4, 0.3, 0.9, 0.1), jitter_p=0.8, grey_p=0.2, blur_p=0.5)
    rows = np.zeros((10_000, column.PARAMETERS), np.float32)
    for i, row in enumerate(rows):
        draw_colours(stream(VIEW, 0, 0, i), settings, 0, row)
    jitter = ColorJitter(*settings.jitter)
    laws = jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue
    drawn = zip(*(ColorJitter.get_params(*laws)[1:] for _ in range(10_000)), strict=True)
    for place, theirs in zip(FACTORS, drawn, strict=True):
        assert ks_2samp(rows[:, place], theirs).pvalue > 1e-4, place
    sigma = [GaussianBlur.get_params(*settings.blur_sigma) for _ in range(10_000)]
    assert ks_2samp(rows[rows[:, column.SIGMA] > 0, column.SIGMA], sigma).pvalue > 1e-4
    orders = np.bincount(rows[rows[:, column.ORDER] >= 0, column.ORDER].astype(int), minlength=24)
    assert len(orders) == 24 and chisquare(orders).pvalue > 1e-4
    for place, p in ((column.ORDER, 0.8), (column.GREY, 0.2), (column.SIGMA, 0.5)):
        happened = rows[:, place] >= 0 if place == column.ORDER else rows[:, place] > 0
        assert abs(happened.mean() - p) < 4 * np.sqrt(p * (1 - p) / 10_000)
