"""U²-Net and its small version (Qin et al., Pattern Recognition 2020): a U-Net of U-Nets.

Parameters have the names and shapes of the authors' checkpoints `u2net.pth` and `u2netp.pth`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FLAT = 0  # height of a block that dilates instead of pooling (RSU-4F in the paper)
# stage -> (height, channels in, inside and out), figure 5 and table 1 of the paper
LARGE = {
    "stage1": (7, 3, 32, 64),
    "stage2": (6, 64, 32, 128),
    "stage3": (5, 128, 64, 256),
    "stage4": (4, 256, 128, 512),
    "stage5": (FLAT, 512, 256, 512),
    "stage6": (FLAT, 512, 256, 512),
    "stage5d": (FLAT, 1024, 256, 512),
    "stage4d": (4, 1024, 128, 256),
    "stage3d": (5, 512, 64, 128),
    "stage2d": (6, 256, 32, 64),
    "stage1d": (7, 128, 16, 64),
}
SMALL = {
    name: (height, {"stage1": 3}.get(name, 128 if name.endswith("d") else 64), 16, 64)
    for name, (height, _, _, _) in LARGE.items()
}
STAGES = {"u2net": LARGE, "u2netp": SMALL}


class ConvBlock(nn.Module):
    """3x3 convolution, BatchNorm, ReLU."""

    def __init__(self, channels: int, out: int, dilation: int = 1):
        super().__init__()
        self.conv_s1 = nn.Conv2d(channels, out, 3, padding=dilation, dilation=dilation)
        self.bn_s1 = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn_s1(self.conv_s1(x)), inplace=True)


class Block(nn.Module):
    """A residual U-block (RSU-L): `height` layers down, the last dilated, and one less up again.

    Args:
        height: L of the paper; FLAT: four layers that dilate by 1, 2, 4 and 8 and never pool.
    """

    def __init__(self, height: int, channels: int, inside: int, out: int):
        super().__init__()
        self.height, self.pools = height or 4, height != FLAT
        self.rebnconvin = ConvBlock(channels, out)
        for i in range(1, self.height + 1):
            dilation = 1 + (i == height) if self.pools else 2 ** (i - 1)
            self.add_module(f"rebnconv{i}", ConvBlock(out if i == 1 else inside, inside, dilation))
        for i in range(1, self.height):
            dilation = 1 if self.pools else 2 ** (i - 1)
            up = ConvBlock(2 * inside, out if i == 1 else inside, dilation)
            self.add_module(f"rebnconv{i}d", up)

    def forward(self, x: Tensor) -> Tensor:
        start = h = self.rebnconvin(x)
        levels = []
        for i in range(1, self.height):
            h = getattr(self, f"rebnconv{i}")(halve(h) if self.pools and i > 1 else h)
            levels.append(h)
        h = getattr(self, f"rebnconv{self.height}")(h)
        for i in range(self.height - 1, 0, -1):
            h = getattr(self, f"rebnconv{i}d")(joined(h, levels[i - 1]))
        return h + start


class U2Net(nn.Module):
    """(B, 3, H, W) float, normalised as the authors do, to their fused (B, H, W) map in [0, 1].

    Args:
        stages: LARGE (44.0 M parameters) or SMALL (1.13 M).
    """

    def __init__(self, stages: dict[str, tuple[int, int, int, int]]):
        super().__init__()
        for name, shape in stages.items():
            self.add_module(name, Block(*shape))
        for i, name in enumerate(("stage1d", "stage2d", "stage3d", "stage4d", "stage5d", "stage6")):
            self.add_module(f"side{i + 1}", nn.Conv2d(stages[name][3], 1, 3, padding=1))
        self.outconv = nn.Conv2d(6, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        levels = []
        for i in range(1, 7):
            x = getattr(self, f"stage{i}")(halve(x) if i > 1 else x)
            levels.append(x)
        sides = [self.side6(x)]
        for i in range(5, 0, -1):
            x = getattr(self, f"stage{i}d")(joined(x, levels[i - 1]))
            sides.insert(0, getattr(self, f"side{i}")(x))
        fused = self.outconv(torch.cat([enlarge(side, sides[0]) for side in sides], 1))
        return torch.sigmoid(fused)[:, 0]


def halve(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2, 2, ceil_mode=True)


def enlarge(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, to the height and width of `like`."""
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)


def joined(x: Tensor, level: Tensor) -> Tensor:
    """A decoder's input: what comes from below, enlarged, and its encoder level."""
    return torch.cat([enlarge(x, level), level], 1)
