"""The network: a small U-shaped encoder and decoder, 0.7 M parameters, that sees a picture and its four cues."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 7  # red, green, blue and the four cues
WIDTHS = (16, 24, 48, 96, 160)  # at 1/2, 1/4, 1/8, 1/16 and 1/32 of the side
DEPTHS = (1, 2, 2, 1)  # blocks at 1/4 and below
DECODER = (48, 32, 24, 16)  # at 1/16, 1/8, 1/4 and 1/2


class Net(nn.Module):
    """(B, 7, S, S) float32 of `normalised`, S a multiple of 32, to (B, S, S) logits of the foreground."""

    def __init__(self):
        super().__init__()
        self.stem = unit(CHANNELS, WIDTHS[0], 3, 2)
        self.stages = nn.ModuleList([
            nn.Sequential(Residual(WIDTHS[k], WIDTHS[k + 1]), *(Inverted(WIDTHS[k + 1]) for _ in range(depth - 1)))
            for k, depth in enumerate(DEPTHS)])
        self.top = unit(WIDTHS[-1], DECODER[0], 1)
        self.lateral = nn.ModuleList([unit(WIDTHS[3 - k], d, 1, active=False) for k, d in enumerate(DECODER)])
        self.reduce = nn.ModuleList([nn.Conv2d(DECODER[max(k - 1, 0)], d, 1, bias=False)
                                     for k, d in enumerate(DECODER)])
        self.decode = nn.ModuleList([unit(d, d, 3) for d in DECODER])
        self.coarse = nn.Conv2d(DECODER[-1], 1, 1)
        self.fine = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        levels = [self.stem(x)]
        for stage in self.stages:
            levels.append(stage(levels[-1]))
        h = self.top(levels[-1])
        h = h + h.mean((2, 3), keepdim=True)  # what the whole picture holds, everywhere
        for k, decode in enumerate(self.decode):
            skip = self.lateral[k](levels[3 - k])
            h = decode(F.relu(enlarged(self.reduce[k](h), skip.shape[2]) + skip))
        logits = enlarged(self.coarse(h), x.shape[2])
        return (logits + self.fine(torch.cat([logits, x[:, :3]], 1)))[:, 0]


class Residual(nn.Module):
    """Two 3 x 3 convolutions, the first of stride 2, beside a pooled 1 x 1."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.body = nn.Sequential(unit(channels, out, 3, 2), unit(out, out, 3, active=False))
        self.side = nn.Sequential(nn.AvgPool2d(2), unit(channels, out, 1, active=False))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.side(x))


class Inverted(nn.Module):
    """An inverted residual (MobileNetV2, Sandler et al., CVPR 2018) that doubles its channels inside."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(unit(channels, 2 * channels, 1),
                                  unit(2 * channels, 2 * channels, 3, groups=2 * channels),
                                  unit(2 * channels, channels, 1, active=False))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def unit(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True) -> nn.Sequential:
    layers = [nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(out)]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if active else []))


def enlarged(x: Tensor, side: int) -> Tensor:
    return F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False)


def normalised(batch: Tensor, keep: Tensor | None = None) -> Tensor:
    """(B, 7, S, S) uint8 to float32 around 0, channels last; cues that `keep` ((B, 4) bool) leaves out become 0."""
    x = batch.to(torch.float32, memory_format=torch.channels_last).sub_(128).div_(64)
    if keep is not None:
        x[:, 3:] *= keep[:, :, None, None]
    return x


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, momentum: float) -> None:
    """Move `average` towards `network`: parameters and BatchNorm's statistics by a moving average."""
    for a, b in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if a.dtype.is_floating_point:
            a.lerp_(b, 1 - momentum)
        else:
            a.copy_(b)
