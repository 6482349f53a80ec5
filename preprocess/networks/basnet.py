"""BASNet (Qin et al., CVPR 2019): a ResNet-34 encoder, six decoder levels, a U-Net that refines.

Parameters have the names and shapes of the authors' checkpoint `basnet.pth`, which DiLo's
`basnet_scratch.pth` shares.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from preprocess.networks.u2net import enlarge, halve

# encoder stage -> (blocks, channels in and out, stride): a ResNet-34's without its first pooling
ENCODER = {1: (3, 64, 64, 1), 2: (4, 64, 128, 2), 3: (6, 128, 256, 2), 4: (3, 256, 512, 2)}
# decoder level -> (channels of each half of its input, inside, out, dilation of the last two)
DECODER = {
    6: (512, 512, 512, 2),
    5: (512, 512, 512, 1),
    4: (512, 512, 256, 1),
    3: (256, 256, 128, 1),
    2: (128, 128, 64, 1),
    1: (64, 64, 64, 1),
}


class Residual(nn.Module):
    """A ResNet's basic block."""

    def __init__(self, channels: int, out: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(h + (x if self.downsample is None else self.downsample(x)))


class Refiner(nn.Module):
    """Adds a residual to the coarse map's logits (section 3.3 of the paper)."""

    def __init__(self):
        super().__init__()
        self.conv0 = nn.Conv2d(1, 64, 3, padding=1)
        for name in ("1", "2", "3", "4", "5"):
            self.add_module(f"conv{name}", nn.Conv2d(64, 64, 3, padding=1))
            self.add_module(f"bn{name}", nn.BatchNorm2d(64))
        for name in ("d4", "d3", "d2", "d1"):
            self.add_module(f"conv_{name}", nn.Conv2d(128, 64, 3, padding=1))
            self.add_module(f"bn_{name}", nn.BatchNorm2d(64))
        self.conv_d0 = nn.Conv2d(64, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h, levels = self.conv0(x), []
        for i in range(1, 6):
            h = conv_block(self, f"conv{i}", f"bn{i}", halve(h) if i > 1 else h)
            levels.append(h)
        for i in range(4, 0, -1):
            h = conv_block(
                self,
                f"conv_d{i}",
                f"bn_d{i}",
                torch.cat([enlarge(h, levels[i - 1]), levels[i - 1]], 1),
            )
        return x + self.conv_d0(h)


class BASNet(nn.Module):
    """(B, 3, H, W) float, normalised as the authors do, to their refined (B, H, W) map in [0, 1].

    The maps of the other decoder levels serve the training only; their convolutions are here so
    that checkpoints fit.
    """

    def __init__(self):
        super().__init__()
        self.inconv = nn.Conv2d(3, 64, 3, padding=1)
        self.inbn = nn.BatchNorm2d(64)
        for stage, (blocks, channels, out, stride) in ENCODER.items():
            self.add_module(
                f"encoder{stage}",
                nn.Sequential(
                    Residual(channels, out, stride),
                    *(Residual(out, out) for _ in range(blocks - 1)),
                ),
            )
        for stage in (5, 6):
            for i in (1, 2, 3):
                self.add_module(f"resb{stage}_{i}", Residual(512, 512))
        for part in ("1", "m", "2"):
            self._convolution(f"bg_{part}", 512, 512, 2)
        for level, (half, inside, out, dilation) in DECODER.items():
            self._convolution(f"{level}d_1", 2 * half, inside, 1)
            self._convolution(f"{level}d_m", inside, inside, dilation)
            self._convolution(f"{level}d_2", inside, out, dilation)
        for name, channels in (
            ("b", 512),
            *((str(level), shape[2]) for level, shape in DECODER.items()),
        ):
            self.add_module(f"outconv{name}", nn.Conv2d(channels, 1, 3, padding=1))
        self.refunet = Refiner()

    def _convolution(self, name: str, channels: int, out: int, dilation: int) -> None:
        self.add_module(
            f"conv{name}", nn.Conv2d(channels, out, 3, padding=dilation, dilation=dilation)
        )
        self.add_module(f"bn{name}", nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.inbn(self.inconv(x)))
        levels = []
        for stage in range(1, 7):
            if stage < 5:
                h = getattr(self, f"encoder{stage}")(h)
            else:
                h = halve(h)
                for i in (1, 2, 3):
                    h = getattr(self, f"resb{stage}_{i}")(h)
            levels.append(h)
        for part in ("1", "m", "2"):
            h = conv_block(self, f"convbg_{part}", f"bnbg_{part}", h)
        for level in range(6, 0, -1):
            h = torch.cat([enlarge(h, levels[level - 1]), levels[level - 1]], 1)
            for part in ("1", "m", "2"):
                # the authors' code normalises the end of level 6 by level 5's statistics
                norm = "bn5d_2" if (level, part) == (6, "2") else f"bn{level}d_{part}"
                h = conv_block(self, f"conv{level}d_{part}", norm, h)
        return torch.sigmoid(self.refunet(self.outconv1(h)))[:, 0]


def conv_block(module: nn.Module, convolution: str, norm: str, x: Tensor) -> Tensor:
    return F.relu(getattr(module, norm)(getattr(module, convolution)(x)))
