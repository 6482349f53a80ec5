"""U²-Net and BASNet: every parameter's name and shape as the official checkpoints'."""

import hashlib

import pytest
import torch

from preprocess.networks.basnet import BASNet
from preprocess.networks.u2net import LARGE, SMALL, U2Net

# SHA-256 of the sorted lines "key shape" of the official classes' state_dict(), and their
# parameters
OFFICIAL = {
    "u2net": ("0e92a7fde6937f38ee97116075cc23d3c880669755004db673ddcc13efba1d1f", 44_009_869),
    "u2netp": ("4894cc60aae7d2d19b57bf251e6a06faaec370b41889fab70ea65b21a9b9cf51", 1_131_181),
    "basnet": ("91199287fa703451e4a67b88e888e8cd9319f1cb3c444d79e40256967263a0de", 87_060_360),
}
BUILD = {"u2net": lambda: U2Net(LARGE), "u2netp": lambda: U2Net(SMALL), "basnet": BASNet}


@pytest.mark.parametrize("name", OFFICIAL)
def test_parameters_are_the_official_ones(name):
    with torch.device("meta"):
        network = BUILD[name]()
    shapes = {k: "x".join(map(str, v.shape)) or "scalar" for k, v in network.state_dict().items()}
    lines = "".join(sorted(f"{key} {shape}\n" for key, shape in shapes.items()))
    digest, count = OFFICIAL[name]
    assert sum(p.numel() for p in network.parameters()) == count
    assert hashlib.sha256(lines.encode()).hexdigest() == digest


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


@pytest.mark.parametrize("name", ["u2netp", "basnet"])
def test_every_parameter_matters_and_maps_have_the_inputs_size(name):
    """But for those that the authors' own forward pass leaves out."""
    network = randomised(BUILD[name]())
    out = network(torch.randn(1, 3, 64, 96, generator=torch.manual_seed(2)))
    assert out.shape == (1, 64, 96) and 0 < out.min() and out.max() < 1 and out.std() > 0.01
    out.mean().backward()
    idle = {key.split(".")[0] for key, p in network.named_parameters() if p.grad is None}
    unused = {"bn6d_2", "outconvb", *(f"outconv{i}" for i in range(2, 7))}
    assert idle == (unused if name == "basnet" else set())
