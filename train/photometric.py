"""Colours of a batch on the device: jitter, greyscale, blur, solarisation, normalisation, by each
sample's parameters.

The operations are torchvision's ColorJitter (in each sample's own random order), RandomGrayscale,
GaussianBlur and RandomSolarize; the parameters were drawn with the crop (train/views.py), so a
picture does not depend on the batch that it is in. A GPU takes them a batch at a time (batched), a
CPU a sample at a time (train/colours.py), twenty times faster there; the two agree within rounding.
"""

import torch
from torch import Tensor

from train import colours
from train.colours import MEAN, STD
from train.parameters import BRIGHTNESS, CONTRAST, GREY, HUE, ORDER, SATURATION, SIGMA, SOLARISE

ORDERS = torch.from_numpy(colours.ORDERS)
LUMA = (0.299, 0.587, 0.114)


def photometric(views: Tensor, parameters: Tensor, device: torch.device) -> Tensor:
    """Augment and normalise a batch.

    Args:
        views: (B, s, s, 3) uint8.
        parameters: (B, PARAMETERS) float32 on the CPU, see train/views.py: the subsets are chosen
            there, so that the device is never asked.

    Returns:
        (B, 3, s, s) float32 on `device`, channels last, normalised by ImageNet's mean and
        deviation.
    """
    if device.type == "cpu":
        coloured = colours.colours(views.numpy(), parameters.numpy())
        return torch.from_numpy(coloured).permute(0, 3, 1, 2)
    return normalise(batched(views.to(device, non_blocking=True), parameters))


def batched(views: Tensor, parameters: Tensor) -> Tensor:
    """The same by whole batches, for a GPU, before the normalisation: (B, 3, s, s) float32 in
    [0, 1]."""
    device, images = views.device, to_float(views)
    order = parameters[:, ORDER].long()
    # (B, 4) operation of each step, -1 none
    steps = torch.where(order[:, None] >= 0, ORDERS[order.clamp(min=0)], -1)
    work = [
        (steps[:, step] == column, column)
        for step in range(4)
        for column in (BRIGHTNESS, CONTRAST, SATURATION, HUE)
    ]
    work += [(parameters[:, column] > 0, column) for column in (GREY, SIGMA, SOLARISE)]
    for chosen, column in work:
        rows = chosen.nonzero()[:, 0]
        if len(rows):
            values = parameters[rows, column].to(device, non_blocking=True)[:, None, None, None]
            rows = rows.to(device, non_blocking=True)
            images[rows] = OPERATIONS[column](images[rows], values)
    return images


def to_float(views: Tensor) -> Tensor:
    """(B, s, s, 3) uint8 to (B, 3, s, s) float32 in [0, 1], channels last."""
    return views.permute(0, 3, 1, 2).float().div_(255)


def normalise(images: Tensor) -> Tensor:
    """(B, 3, s, s) in [0, 1] to ImageNet's mean 0 and deviation 1, in place."""
    mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (MEAN, STD))
    return images.sub_(mean).div_(std)


def luma(images: Tensor) -> Tensor:
    """(B, 1, s, s): ITU-R 601 grey."""
    return LUMA[0] * images[:, 0:1] + LUMA[1] * images[:, 1:2] + LUMA[2] * images[:, 2:3]


def grey(images: Tensor, _: Tensor) -> Tensor:
    """(B, 3, s, s) greyscale."""
    return luma(images).expand(-1, 3, -1, -1)


def solarise(images: Tensor, _: Tensor) -> Tensor:
    """Invert the values from half up (Grill et al. 2020, appendix B)."""
    return torch.where(images < 0.5, images, 1 - images)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """ColorJitter's; `factor` is (B, 1, 1, 1), as of the two below."""
    return (images * factor).clamp_(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    mean = luma(images).mean((1, 2, 3), keepdim=True)
    return torch.lerp(mean, images, factor).clamp_(0, 1)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(luma(images), images, factor).clamp_(0, 1)


def hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue of HSV by `shift` of a full circle (-0.5..0.5)."""
    value, at = images.max(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    red, green, blue = images.split(1, 1)
    safe = chroma.clamp(min=1e-8)
    not_red = torch.where(at == 1, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    sixth = torch.where(at == 0, (green - blue) / safe, not_red)
    # HSV to RGB in closed form: channel n is value - chroma * clip(min(k, 4 - k), 0, 1) with
    # k = (n + hue / 60 degrees) mod 6
    offset = torch.tensor((5.0, 3.0, 1.0), device=images.device)[:, None, None]
    k = torch.remainder(offset + sixth + 6 * shift, 6)
    return value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with each image's own sigma (pixels), as two products with (s, s) matrices;
    train/colours.py cuts the kernel at s - 1 pixels.

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


OPERATIONS = {
    BRIGHTNESS: brightness,
    CONTRAST: contrast,
    SATURATION: saturation,
    HUE: hue,
    GREY: grey,
    SIGMA: blur,
    SOLARISE: solarise,
}
