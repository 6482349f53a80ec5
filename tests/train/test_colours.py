"""The compiled colours of a CPU against torchvision's functions and against the batched ones of a
GPU."""

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as tv

from train.colours import MEAN, ORDERS, STD, colours, fits
from train.photometric import batched, normalise, photometric
from train.views import (
    BRIGHTNESS,
    CONTRAST,
    GREY,
    HUE,
    ORDER,
    PARAMETERS,
    SATURATION,
    SIGMA,
    SOLARISE,
)

ADJUST = {
    BRIGHTNESS: tv.adjust_brightness,
    CONTRAST: tv.adjust_contrast,
    SATURATION: tv.adjust_saturation,
    HUE: tv.adjust_hue,
}


def draw(count: int, side: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures with flat, grey, black and white parts, and parameters of every kind."""
    rng = np.random.default_rng(seed)
    views = rng.integers(0, 256, (count, side, side, 3)).astype(np.uint8)
    views[:, :3] = rng.integers(0, 256, (count, 1, 1, 3))
    views[:, 3:5] = views[:, 3:5, :, :1]
    views[:, 5, :8], views[:, 5, 8:16] = 0, 255
    parameters = np.zeros((count, PARAMETERS), np.float32)
    parameters[:, [BRIGHTNESS, CONTRAST, SATURATION]] = rng.uniform(0.2, 1.8, (count, 3))
    parameters[:, HUE] = rng.uniform(-0.5, 0.5, count)
    parameters[:, ORDER] = np.arange(count) % 25 - 1  # every order, and none
    parameters[:, GREY] = rng.random(count) < 0.2
    parameters[:, SIGMA] = np.where(rng.random(count) < 0.5, rng.uniform(0.1, 2, count), 0)
    parameters[:, SOLARISE] = rng.random(count) < 0.2
    return torch.from_numpy(views), torch.from_numpy(parameters)


def torchvisions(view: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    """(3, s, s) in [0, 1], by torchvision's functions one after the other."""
    picture = view.permute(2, 0, 1).float() / 255
    if row[ORDER] >= 0:
        for operation in ORDERS[int(row[ORDER])].tolist():
            picture = ADJUST[operation](picture, row[operation].item())
    if row[GREY]:
        picture = tv.rgb_to_grayscale(picture, 3)
    if row[SIGMA]:
        picture = tv.gaussian_blur(picture, [31, 31], [row[SIGMA].item()])
    return picture


def test_every_order_of_operations_is_torchvisions():
    views, parameters = draw(100, 40)
    parameters[:, SOLARISE] = 0  # it jumps at one half, where the last digit decides
    ours = photometric(views, parameters, torch.device("cpu"))
    assert ours.shape == (100, 3, 40, 40) and ours.is_contiguous(memory_format=torch.channels_last)
    for i in range(100):
        expected = tv.normalize(torchvisions(views[i], parameters[i]), MEAN, STD)
        assert (ours[i] - expected).abs().max() < 2e-3, (
            i,
            parameters[i],
        )  # its luma has rounded weights


@pytest.mark.parametrize("side", [33, 50, 96])  # 50 * 50 is no whole number of pieces
def test_compiled_and_batched_agree(side):
    views, parameters = draw(60, side, seed=side)
    assert fits(parameters.numpy(), side)
    one, other = (
        torch.from_numpy(colours(views.numpy(), parameters.numpy())),
        batched(views, parameters),
    )
    difference = (one.permute(0, 3, 1, 2) - normalise(other)).abs()
    undecided = (other - 0.5).abs() < 1e-5
    assert difference[~undecided].max() < 1e-4
    strided = colours(torch.stack([views, views], 1)[:, 1].numpy(), parameters.numpy())
    assert np.array_equal(strided, one.numpy())


def test_solarisation_inverts_from_half_up():
    views = (
        torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3).contiguous()
    )
    row = torch.zeros(1, PARAMETERS)
    row[0, ORDER], row[0, SOLARISE] = -1, 1
    expected = tv.normalize(tv.solarize(views.permute(0, 3, 1, 2), 128).float() / 255, MEAN, STD)
    assert (photometric(views, row, torch.device("cpu")) - expected).abs().max() < 1e-5


def test_a_blur_wider_than_the_picture_is_still_right():
    views, parameters = draw(4, 12)
    parameters[:, SIGMA] = torch.tensor([0.0, 1.0, 2.0, 2.2])
    assert not fits(parameters.numpy(), 12)
    expected = normalise(batched(views, parameters))
    assert torch.equal(photometric(views, parameters, torch.device("cpu")), expected)
    assert colours(
        np.zeros((0, 12, 12, 3), np.uint8), np.zeros((0, PARAMETERS), np.float32)
    ).shape == (0, 12, 12, 3)
