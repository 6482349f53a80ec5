"""Colours of a batch on the device: jitter, greyscale, blur, solarisation, normalisation, by each
sample's parameters.

The operations are torchvision's ColorJitter (in each sample's own random order), RandomGrayscale,
GaussianBlur and RandomSolarize; the parameters were drawn with the crop (train/views.py), so a
picture does not depend on the batch that it is in. A GPU takes them a batch at a time (batched), a
CPU a sample at a time (train/colours.py), twenty times faster there; the two agree within rounding.
"""

from __future__ import annotations

import torch

from train import colours
from train.colours import MEAN, STD
from train.parameters import BRIGHTNESS, CONTRAST, GREY, HUE, ORDER, SATURATION, SIGMA, SOLARISE

ORDERS = torch.from_numpy(colours.ORDERS)
LUMA = (0.299, 0.587, 0.114)


def photometric(
    views: torch.Tensor, parameters: torch.Tensor, device: torch.device
) -> torch.Tensor:
    """Augment and normalise a batch.

    Args:
        views: (B, s, s, 3) uint8.
        parameters: (B, PARAMETERS) float32 on the CPU, see train/views.py: the subsets are chosen
            there, so that the device is never asked.

    Returns:
        (B, 3, s, s) float32 on `device`, channels last, normalised by ImageNet's mean and
        deviation.
    """
    if device.type == "cpu" and colours.fits(parameters.numpy(), views.shape[1]):
        return torch.from_numpy(colours.colours(views.numpy(), parameters.numpy())).permute(
            0, 3, 1, 2
        )
    return normalise(batched(views.to(device, non_blocking=True), parameters))


def batched(views: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    """The same by whole batches, for a GPU, before the normalisation: (B, 3, s, s) float32 in
    [0, 1]."""
    device = views.device
    images = views.permute(0, 3, 1, 2).float().div_(255)
    order = parameters[:, ORDER].long()
    # (B, 4) operation of each step, -1 none
    steps = torch.where(order[:, None] >= 0, ORDERS[order.clamp(min=0)], -1)
    work = [
        (steps[:, step] == column, OPERATIONS[column], column)
        for step in range(4)
        for column in (BRIGHTNESS, CONTRAST, SATURATION, HUE)
    ]
    work.append((parameters[:, GREY] > 0, grey, GREY))
    work.append((parameters[:, SIGMA] > 0, blur, SIGMA))
    work.append((parameters[:, SOLARISE] > 0, solarise, SOLARISE))
    for chosen, operation, column in work:
        rows = chosen.nonzero()[:, 0]
        if len(rows):
            values = parameters[rows, column].to(device, non_blocking=True)[:, None, None, None]
            rows = rows.to(device, non_blocking=True)
            images[rows] = operation(images[rows], values)
    return images


def normalise(images: torch.Tensor) -> torch.Tensor:
    """(B, 3, s, s) in [0, 1] to ImageNet's mean 0 and deviation 1, channels last."""
    mean = torch.tensor(MEAN, device=images.device)[:, None, None]
    std = torch.tensor(STD, device=images.device)[:, None, None]
    return ((images - mean) / std).contiguous(memory_format=torch.channels_last)


def luma(images: torch.Tensor) -> torch.Tensor:
    """(B, 1, s, s): ITU-R 601 grey."""
    return LUMA[0] * images[:, 0:1] + LUMA[1] * images[:, 1:2] + LUMA[2] * images[:, 2:3]


def grey(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """(B, 3, s, s) greyscale."""
    return luma(images).expand(-1, 3, -1, -1)


def solarise(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Invert the values from half up (Grill et al. 2020, appendix B)."""
    return torch.where(images < 0.5, images, 1 - images)


def brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """ColorJitter's; `factor` is (B, 1, 1, 1), as of the two below."""
    return (images * factor).clamp_(0, 1)


def contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    mean = luma(images).mean((1, 2, 3), keepdim=True)
    return torch.lerp(mean, images, factor).clamp_(0, 1)


def saturation(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return torch.lerp(luma(images), images, factor).clamp_(0, 1)


def hue(images: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Turn the hue of HSV by `shift` of a full circle (-0.5..0.5)."""
    value, at = images.max(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    red, green, blue = images[:, 0:1], images[:, 1:2], images[:, 2:3]
    safe = chroma.clamp(min=1e-8)
    not_red = torch.where(at == 1, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    sixth = torch.where(at == 0, (green - blue) / safe, not_red)
    # HSV to RGB in closed form: channel n is value - chroma * clip(min(k, 4 - k), 0, 1) with
    # k = (n + hue / 60 degrees) mod 6
    offset = torch.tensor((5.0, 3.0, 1.0), device=images.device)[:, None, None]
    k = torch.remainder(offset + sixth + 6 * shift, 6)
    return value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)


OPERATIONS = {BRIGHTNESS: brightness, CONTRAST: contrast, SATURATION: saturation, HUE: hue}


def blur(images: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Gaussian blur with each image's own sigma (pixels), as two products with (s, s) matrices.

    Args:
        images: (B, 3, s, s); outside the image it is mirrored, as torchvision does.
        sigma: (B, 1, 1, 1), above 0.
    """
    side = images.shape[-1]
    at = torch.arange(side, device=images.device)
    kernel = torch.zeros(len(images), side, side, device=images.device)
    # a pixel is seen at its own place and at its two mirror images
    for reflection in (at, -at, 2 * (side - 1) - at):
        distance = (at[:, None] - reflection[None, :]).float()
        seen = torch.exp(-0.5 * (distance / sigma[:, 0]) ** 2)
        kernel += seen if reflection is at else seen * ((reflection < 0) | (reflection > side - 1))
    kernel /= kernel.sum(2, keepdim=True)
    kernel = kernel[:, None]
    return kernel @ images @ kernel.transpose(2, 3)
