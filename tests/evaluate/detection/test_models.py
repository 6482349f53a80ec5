"""The detectors: their sizes against torchvision's and arithmetic, where weights go, and how
regions are read."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet50
from torchvision.models.detection import fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn

from evaluate.detection.models import AlignedRegions, Trunk, build
from evaluate.weights import load_weights
from train.network import backbone


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """Torchvision's file of a ResNet-50, and what it holds."""
    network = resnet50()
    with torch.no_grad():
        for key, value in network.named_buffers():
            if key.endswith("running_var"):
                value.uniform_(0.5, 2)
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(network.state_dict(), path)
    return path, network.state_dict()


def test_c4_has_33_million_parameters_and_only_fc_is_left_out(resnet):
    path, state = resnet
    model = build(load_weights(path), "c4", 20)
    trunk = count(resnet50()) - 1000 * (2048 + 1)
    rpn = 1024 * 1024 * 9 + 1024 + 15 * (1 + 4) * (1024 + 1)
    assert count(model) == trunk + rpn + 2 * 2048 + 21 * (1 + 4) * (2048 + 1)
    assert round(count(model) / 1e6, 1) == 33.2
    assert all(p.requires_grad for p in model.parameters())
    held = model.state_dict()
    places = {
        key: f"roi_heads.box_head.{key}" if key.startswith("layer4") else f"backbone.{key}"
        for key in state
    }
    assert {key for key, place in places.items() if place not in held} == {"fc.weight", "fc.bias"}
    assert all(
        torch.equal(held[place], state[key]) for key, place in places.items() if place in held
    )
    assert list(dict(model.roi_heads.box_head.named_children())) == [
        "layer4",
        "norm",
        "pool",
        "flatten",
    ]
    assert isinstance(model.roi_heads.box_head.norm, nn.BatchNorm2d)
    assert not any(type(m).__name__ == "FrozenBatchNorm2d" for m in model.modules())
    other = build(load_weights(path), "c4", 20, untrained=True).state_dict()
    assert not torch.equal(other["backbone.conv1.weight"], state["conv1.weight"])


@pytest.mark.parametrize(
    ("model", "reference", "norms"),
    [("fpn", fasterrcnn_resnet50_fpn, 8), ("mask", maskrcnn_resnet50_fpn, 8 + 4)],
)
def test_pyramids_are_torchvisions_with_norms(resnet, model, reference, norms):
    path, state = resnet
    made = build(load_weights(path), model, 90)
    # each norm brings 256 weights and makes 256 biases of a convolution its own
    assert count(made) == count(reference(weights=None, weights_backbone=None)) + 256 * norms
    assert all(p.requires_grad for p in made.parameters())
    held = made.state_dict()
    places = {key: f"backbone.body.{key}" for key in state}
    assert {key for key, place in places.items() if place not in held} == {"fc.weight", "fc.bias"}
    assert all(
        torch.equal(held[place], state[key]) for key, place in places.items() if place in held
    )
    assert isinstance(made.backbone.fpn.inner_blocks[0][1], nn.BatchNorm2d)


def test_new_layers_come_from_the_seed(tmp_path):
    torch.save(backbone("resnet10", "imagenet", 4).state_dict(), tmp_path / "x.pt")
    weights = load_weights(tmp_path / "x.pt")
    first, again, other = (build(weights, "c4", 2, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["rpn.head.conv.0.0.weight"], other["rpn.head.conv.0.0.weight"])
    assert torch.equal(first["backbone.conv1.weight"], other["backbone.conv1.weight"])


def test_trunk_is_the_network_up_to_layer3():
    torch.manual_seed(0)
    network = backbone("resnet10", "imagenet", 8).eval()
    x = torch.randn(2, 3, 64, 96)
    seen = []
    network.layer4.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(x)
    trunk = Trunk(network).eval()
    assert torch.equal(trunk(x), seen[0])
    assert trunk.out_channels == 32 and trunk(x).shape[2:] == (4, 6)


def test_regions_are_read_where_they_are():
    ramp = torch.arange(
        40.0
    )  # what is read is where: position i is the centre of image pixels 16 i to 16 i + 16
    features = torch.stack([ramp.expand(30, 40), ramp[:30, None].expand(30, 40)])[None]
    box = torch.tensor([[100.0, 60.0, 421.0, 300.0]])
    read = AlignedRegions(16)({"0": features}, [box], [(480, 640)])
    assert read.shape == (1, 2, 14, 14)
    bins = (torch.arange(14) + 0.5) / 14
    torch.testing.assert_close(read[0, 0, 3], (100 + 321 * bins) / 16 - 0.5)
    torch.testing.assert_close(read[0, 1, :, 5], (60 + 240 * bins) / 16 - 0.5)


def test_images_are_only_padded():
    model = build_small("c4").eval()
    images = [torch.randn(3, 40, 70), torch.randn(3, 64, 50)]
    batch, _ = model.transform([image.clone() for image in images])
    assert batch.tensors.shape == (2, 3, 64, 96) and batch.image_sizes == [(40, 70), (64, 50)]
    for i, image in enumerate(images):
        h, w = image.shape[1:]
        assert torch.equal(batch.tensors[i, :, :h, :w], image)
        assert batch.tensors[i, :, h:].abs().sum() == 0 == batch.tensors[i, :, :, w:].abs().sum()


def build_small(model: str):
    from evaluate.weights import Weights

    state = {
        k: v
        for k, v in backbone("resnet10", "imagenet", 4).state_dict().items()
        if not k.startswith("fc.")
    }
    return build(Weights("resnet10", "imagenet", 4, state), model, 1, channels=8, regions=16)
