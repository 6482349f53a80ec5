"""Backbones: torchvision's ResNets, a narrow ResNet-10 for 32 px on a CPU, and BatchNorm by splits
of a batch."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.resnet import BasicBlock

from train.config import Network


class SplitBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm whose statistics come from `splits` parts of the batch, as on that many GPUs.

    Together with shuffled keys it keeps MoCo from telling the positive by the batch's statistics on
    one process (He et al. 2020, section 3.3). Keys of its state dict are BatchNorm's; in eval mode
    it is BatchNorm.
    """

    def __init__(self, features: int, splits: int = 1):
        super().__init__(features)
        self.splits = splits

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.splits == 1:
            return super().forward(x)
        means = self.running_mean.repeat(self.splits, 1)
        variances = self.running_var.repeat(self.splits, 1)
        weights = self.weight, self.bias, True, self.momentum, self.eps
        # one call a split keeps channels_last, which is worth more on a CPU than folding splits
        # into channels
        parts = zip(x.chunk(self.splits), means, variances, strict=True)
        out = torch.cat([F.batch_norm(*part, *weights) for part in parts])
        with torch.no_grad():
            self.running_mean.copy_(means.mean(0))
            self.running_var.copy_(variances.mean(0))
            self.num_batches_tracked += 1
        return out


class Subsampled1x1(nn.Conv2d):
    """A strided 1x1 convolution without bias, as a slice and a convolution at stride 1: the same
    numbers.

    oneDNN 3.13's gradient of the strided one (brgconv_strided:avx2, channels last) writes past its
    memory with fewer than 8 channels, on processors without AVX-512: the process dies.
    """

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__(channels, out, 1, bias=False)
        self.step = stride

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :, :: self.step, :: self.step])


class NarrowResNet10(nn.Module):
    """Four stages of one basic block each, (w, 2w, 4w, 8w) channels; layers are named as
    torchvision names them."""

    def __init__(self, width: int, norm_layer: Callable[[int], nn.Module]):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = norm_layer(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for stage in range(1, 5):
            stride, down = 1, None
            if stage > 1:
                stride, width = 2, 2 * width
                down = nn.Sequential(Subsampled1x1(width // 2, width, 2), norm_layer(width))
            block = BasicBlock(width // stride, width, stride, down, norm_layer=norm_layer)
            self.add_module(f"layer{stage}", nn.Sequential(block))
        self.fc = nn.Linear(width, 1000)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _initialise(module)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def _initialise(convolution: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")


def backbone(network: str, stem: str = "imagenet", width: int = 64, splits: int = 1) -> nn.Module:
    """A randomly initialised backbone whose `fc` maps its features.

    Args:
        network: resnet10, or torchvision's resnet18, resnet34, resnet50, resnet101 or resnet152.
        stem: "imagenet" (7x7, stride 2, max-pooling), or for small images "small" (3x3, stride 1,
            no pooling) or "small_stride2" (the same at stride 2).
        width: channels of resnet10's first stage.
        splits: BatchNorm splits, see SplitBatchNorm2d.
    """
    norm = partial(SplitBatchNorm2d, splits=splits) if splits > 1 else nn.BatchNorm2d
    if network == "resnet10":
        model = NarrowResNet10(width, norm)
    else:
        model = getattr(resnet, network)(weights=None, norm_layer=norm)
    if stem != "imagenet":
        stride = 2 if stem == "small_stride2" else 1
        model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, stride, 1, bias=False)
        _initialise(model.conv1)
        model.maxpool = nn.Identity()
    return model


def backbone_of(settings: Network) -> nn.Module:
    """The configured backbone."""
    return backbone(**vars(settings))


def compile_networks(method: nn.Module, mode: str = "default") -> None:
    """Compile a method's backbones with torch.compile, in place; its state's names stay. `mode` is
    torch.compile's."""
    for network in (m for m in method.children() if hasattr(m, "fc")):
        network.compile(mode=mode)
