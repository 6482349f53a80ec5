"""U²-Net and BASNet: every parameter's name and shape as the official checkpoints', and the forward
pass by hand."""

import hashlib

import pytest
import torch
from torch.nn import functional as F

from preprocess.networks.basnet import BASNet
from preprocess.networks.u2net import FLAT, LARGE, SMALL, Block, U2Net

# SHA-256 of the sorted lines "key shape" of the official classes' state_dict(), and their
# parameters
OFFICIAL = {
    "u2net": ("0e92a7fde6937f38ee97116075cc23d3c880669755004db673ddcc13efba1d1f", 44_009_869),
    "u2netp": ("4894cc60aae7d2d19b57bf251e6a06faaec370b41889fab70ea65b21a9b9cf51", 1_131_181),
    "basnet": ("91199287fa703451e4a67b88e888e8cd9319f1cb3c444d79e40256967263a0de", 87_060_360),
}
BUILD = {"u2net": lambda: U2Net(LARGE), "u2netp": lambda: U2Net(SMALL), "basnet": BASNet}


def lines(network):
    return sorted(
        f"{key} {'x'.join(map(str, value.shape)) or 'scalar'}\n"
        for key, value in network.state_dict().items()
    )


@pytest.mark.parametrize("name", OFFICIAL)
def test_parameters_are_the_official_ones(name):
    with torch.device("meta"):
        network = BUILD[name]()
    digest, count = OFFICIAL[name]
    assert sum(p.numel() for p in network.parameters()) == count
    assert hashlib.sha256("".join(lines(network)).encode()).hexdigest() == digest


def randomised(network, seed=0):
    """Weights and statistics under which no layer is idle."""
    generator = torch.Generator().manual_seed(seed)
    for key, value in network.state_dict().items():
        if value.ndim == 4:
            value.normal_(0, (1.5 / value[0].numel()) ** 0.5, generator=generator)
        elif key.endswith(("running_var", "bn_s1.weight")):
            value.uniform_(0.5, 1.5, generator=generator)
        elif value.ndim == 1:
            value.normal_(0, 0.3, generator=generator)
    return network.eval()


def unit(state, name, x, dilation=1):
    x = F.conv2d(
        x, state[f"{name}.conv_s1.weight"], state[f"{name}.conv_s1.bias"], 1, dilation, dilation
    )
    x = F.batch_norm(
        x,
        *(
            state[f"{name}.bn_s1.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        ),
    )
    return F.relu(x)


def double(x):
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def test_a_block_of_height_four_written_out():
    block = randomised(Block(4, 3, 5, 7))
    s, x = block.state_dict(), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    start = unit(s, "rebnconvin", x)
    one = unit(s, "rebnconv1", start)
    two = unit(s, "rebnconv2", F.max_pool2d(one, 2))
    three = unit(s, "rebnconv3", F.max_pool2d(two, 2))
    four = unit(s, "rebnconv4", three, 2)
    up = double(unit(s, "rebnconv3d", torch.cat([four, three], 1)))
    up = double(unit(s, "rebnconv2d", torch.cat([up, two], 1)))
    expected = unit(s, "rebnconv1d", torch.cat([up, one], 1)) + start
    with torch.no_grad():
        assert torch.allclose(block(x), expected, atol=1e-5)


def test_a_flat_block_written_out():
    block = randomised(Block(FLAT, 3, 5, 7))
    s, x = block.state_dict(), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    start = unit(s, "rebnconvin", x)
    one = unit(s, "rebnconv1", start)
    two = unit(s, "rebnconv2", one, 2)
    three = unit(s, "rebnconv3", two, 4)
    up = unit(s, "rebnconv3d", torch.cat([unit(s, "rebnconv4", three, 8), three], 1), 4)
    up = unit(s, "rebnconv2d", torch.cat([up, two], 1), 2)
    expected = unit(s, "rebnconv1d", torch.cat([up, one], 1)) + start
    with torch.no_grad():
        assert torch.allclose(block(x), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["u2netp", "basnet"])
def test_every_parameter_matters_and_maps_have_the_inputs_size(name):
    """But for those that the authors' own forward pass leaves out."""
    network = randomised(BUILD[name]())
    out = network(torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(2)))
    assert out.shape == (1, 64, 96) and 0 < out.min() and out.max() < 1 and out.std() > 0.01
    out.mean().backward()
    idle = {key.split(".")[0] for key, p in network.named_parameters() if p.grad is None}
    unused = {
        "bn6d_2",
        "outconvb",
        *(f"outconv{i}" for i in range(2, 7)),
    }  # level 6 shares level 5's norm there
    assert idle == (unused if name == "basnet" else set())
