"""U²-Net and BASNet: the authors' parameters, all of which the forward pass by hand uses."""

import hashlib

import pytest
import torch
from torch.nn import functional as F

from preprocess.networks.basnet import BASNet
from preprocess.networks.u2net import FLAT, LARGE, SMALL, Block, U2Net

BUILD = {"u2net": lambda: U2Net(LARGE), "u2netp": lambda: U2Net(SMALL), "basnet": BASNet}
# of the official classes: parameters, and SHA-256 of the sorted lines "key shape" of state_dict()
OFFICIAL = {
    "u2net": (44_009_869, "0e92a7fde6937f38ee97116075cc23d3c880669755004db673ddcc13efba1d1f"),
    "u2netp": (1_131_181, "4894cc60aae7d2d19b57bf251e6a06faaec370b41889fab70ea65b21a9b9cf51"),
    "basnet": (87_060_360, "91199287fa703451e4a67b88e888e8cd9319f1cb3c444d79e40256967263a0de"),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_parameters_are_the_official_ones(name):
    with torch.device("meta"):
        network = BUILD[name]()
    shapes = {k: "x".join(map(str, v.shape)) or "scalar" for k, v in network.state_dict().items()}
    lines = "".join(sorted(f"{key} {shape}\n" for key, shape in shapes.items()))
    count = sum(p.numel() for p in network.parameters())
    assert (count, hashlib.sha256(lines.encode()).hexdigest()) == OFFICIAL[name]


def randomised(network):
    """Weights and statistics under which no layer is idle."""
    generator = torch.Generator().manual_seed(0)
    for key, value in network.state_dict().items():
        if value.ndim == 4:
            value.normal_(0, (1.5 / value[0].numel()) ** 0.5, generator=generator)
        elif key.endswith(("running_var", "bn_s1.weight")):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.ndim == 1:
            value.normal_(0, 0.3, generator=generator)
    return network.eval()


def double(x):
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("height", [4, FLAT])
def test_a_block_written_out(height):
    block = randomised(Block(height, 3, 5, 7))
    state, x = block.state_dict(), torch.randn(2, 3, 16, 16, generator=torch.manual_seed(1))
    parts = ("running_mean", "running_var", "weight", "bias")

    def unit(name, x, dilation=1):
        weight, bias = state[f"{name}.conv_s1.weight"], state[f"{name}.conv_s1.bias"]
        x = F.conv2d(x, weight, bias, 1, dilation, dilation)
        return F.relu(F.batch_norm(x, *(state[f"{name}.bn_s1.{part}"] for part in parts)))

    start = unit("rebnconvin", x)
    one = unit("rebnconv1", start)
    if height == FLAT:
        two = unit("rebnconv2", one, 2)
        three = unit("rebnconv3", two, 4)
        up = unit("rebnconv3d", torch.cat([unit("rebnconv4", three, 8), three], 1), 4)
        up = unit("rebnconv2d", torch.cat([up, two], 1), 2)
    else:
        two = unit("rebnconv2", F.max_pool2d(one, 2))
        three = unit("rebnconv3", F.max_pool2d(two, 2))
        up = double(unit("rebnconv3d", torch.cat([unit("rebnconv4", three, 2), three], 1)))
        up = double(unit("rebnconv2d", torch.cat([up, two], 1)))
    expected = unit("rebnconv1d", torch.cat([up, one], 1)) + start
    with torch.no_grad():
        assert torch.allclose(block(x), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["u2netp", "basnet"])
def test_every_parameter_matters_and_maps_have_the_inputs_size(name):
    # BASNet's level 6 shares level 5's norm, and its other maps serve the training
    network = randomised(BUILD[name]())
    out = network(torch.randn(1, 3, 64, 96, generator=torch.manual_seed(2)))
    assert out.shape == (1, 64, 96) and 0 < out.min() and out.max() < 1 and out.std() > 0.01
    out.mean().backward()
    idle = {key.split(".")[0] for key, p in network.named_parameters() if p.grad is None}
    unused = {"bn6d_2", "outconvb", *(f"outconv{i}" for i in range(2, 7))}
    assert idle == (unused if name == "basnet" else set())
