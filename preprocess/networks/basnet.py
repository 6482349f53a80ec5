"""BASNet (Qin et al., CVPR 2019): a ResNet-34 encoder, six decoder levels, a U-Net that refines.

Parameters have the names and shapes of the authors' checkpoint `basnet.pth`, which DiLo's
`basnet_scratch.pth` shares.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet34
from torchvision.models.resnet import BasicBlock

from preprocess.networks.u2net import halve, joined

# decoder level -> (channels of each half of its input, inside, out, dilation of the last two)
DECODER = {
    6: (512, 512, 512, 2),
    5: (512, 512, 512, 1),
    4: (512, 512, 256, 1),
    3: (256, 256, 128, 1),
    2: (128, 128, 64, 1),
    1: (64, 64, 64, 1),
}
PARTS = "1", "m", "2"


class ConvBlocks(nn.Module):
    """Has 3x3 convolutions with BatchNorm and ReLU, conv{name} and bn{name}."""

    def add(self, name: str, channels: int, out: int, dilation: int = 1) -> None:
        convolution = nn.Conv2d(channels, out, 3, padding=dilation, dilation=dilation)
        self.add_module(f"conv{name}", convolution)
        self.add_module(f"bn{name}", nn.BatchNorm2d(out))

    def block(self, name: str, x: Tensor, norm: str = "") -> Tensor:
        return F.relu(getattr(self, f"bn{norm or name}")(getattr(self, f"conv{name}")(x)))


class Refiner(ConvBlocks):
    """Adds a residual to the coarse map's logits (section 3.3 of the paper)."""

    def __init__(self):
        super().__init__()
        self.conv0 = nn.Conv2d(1, 64, 3, padding=1)
        for i in range(1, 6):
            self.add(f"{i}", 64, 64)
        for i in range(1, 5):
            self.add(f"_d{i}", 128, 64)
        self.conv_d0 = nn.Conv2d(64, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h, levels = self.conv0(x), []
        for i in range(1, 6):
            h = self.block(f"{i}", halve(h) if i > 1 else h)
            levels.append(h)
        for i in range(4, 0, -1):
            h = self.block(f"_d{i}", joined(h, levels[i - 1]))
        return x + self.conv_d0(h)


class BASNet(ConvBlocks):
    """(B, 3, H, W) float, normalised as the authors do, to their refined (B, H, W) map in [0, 1].

    The maps of the other decoder levels serve the training only; their convolutions are here so
    that checkpoints fit.
    """

    def __init__(self):
        super().__init__()
        self.inconv = nn.Conv2d(3, 64, 3, padding=1)
        self.inbn = nn.BatchNorm2d(64)
        resnet = resnet34()
        for stage in range(1, 5):
            self.add_module(f"encoder{stage}", getattr(resnet, f"layer{stage}"))
        for stage in (5, 6):
            for i in (1, 2, 3):
                self.add_module(f"resb{stage}_{i}", BasicBlock(512, 512))
        for part in PARTS:
            self.add(f"bg_{part}", 512, 512, 2)
        self.outconvb = nn.Conv2d(512, 1, 3, padding=1)
        for level, (half, inside, out, dilation) in DECODER.items():
            self.add(f"{level}d_1", 2 * half, inside)
            self.add(f"{level}d_m", inside, inside, dilation)
            self.add(f"{level}d_2", inside, out, dilation)
            self.add_module(f"outconv{level}", nn.Conv2d(out, 1, 3, padding=1))
        self.refunet = Refiner()

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.inbn(self.inconv(x)))
        levels = []
        for stage in range(1, 5):
            h = getattr(self, f"encoder{stage}")(h)
            levels.append(h)
        for stage in (5, 6):
            h = halve(h)
            for i in (1, 2, 3):
                h = getattr(self, f"resb{stage}_{i}")(h)
            levels.append(h)
        for part in PARTS:
            h = self.block(f"bg_{part}", h)
        for level in range(6, 0, -1):
            h = joined(h, levels[level - 1])
            for part in PARTS:
                # the authors' code normalises the end of level 6 by level 5's statistics
                norm = "5d_2" if (level, part) == (6, "2") else ""
                h = self.block(f"{level}d_{part}", h, norm)
        return torch.sigmoid(self.refunet(self.outconv1(h)))[:, 0]
