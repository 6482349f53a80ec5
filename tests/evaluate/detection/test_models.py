"""The detectors: their sizes against torchvision's and arithmetic, where weights go, and how
regions are read."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet50
from torchvision.models.detection import fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn

from evaluate.detection.models import AlignedRegions, build
from train.network import backbone
from train.weights import Weights, load_weights


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """Weights of a narrow ResNet-10."""
    path = tmp_path_factory.mktemp("weights") / "x.pt"
    torch.manual_seed(7)  # not what an untrained network begins with
    torch.save(backbone("resnet10", "imagenet", 8).state_dict(), path)
    return load_weights(path)


def expected_count(model: str) -> int:
    """Parameters of a detector of 20 classes by arithmetic; of torchvision's with norms."""
    if model == "c4":
        trunk = count(resnet50()) - 1000 * (2048 + 1)
        rpn = 1024 * 1024 * 9 + 1024 + 15 * (1 + 4) * (1024 + 1)
        return trunk + rpn + 2 * 2048 + 21 * (1 + 4) * (2048 + 1)
    reference = {"fpn": fasterrcnn_resnet50_fpn, "mask": maskrcnn_resnet50_fpn}[model]
    norms = {"fpn": 8, "mask": 8 + 4}[model]
    # each norm brings 256 weights and makes 256 biases of a convolution its own
    return count(reference(weights=None, weights_backbone=None, num_classes=21)) + 256 * norms


@pytest.mark.parametrize("model", ["c4", "fpn", "mask"])
def test_sizes_are_known(model):
    with torch.device("meta"):  # no numbers
        detector = build(Weights("resnet50", "imagenet", 64, {}), model, 20, untrained=True)
        assert count(detector) == expected_count(model)
    assert model != "c4" or round(count(detector) / 1e6, 1) == 33.2


@pytest.mark.parametrize("model", ["c4", "fpn", "mask"])
def test_everything_but_fc_is_taken_and_trained(narrow, model):
    detector = build(narrow, model, 20, channels=8)
    assert all(p.requires_grad for p in detector.parameters())
    assert not any(type(m).__name__ == "FrozenBatchNorm2d" for m in detector.modules())
    trunk, head = ("backbone", "roi_heads.box_head") if model == "c4" else ("backbone.body",) * 2
    held = detector.state_dict()
    for key, value in narrow.state.items():
        place = f"{head if key.startswith('layer4') else trunk}.{key}"
        assert torch.equal(held[place], value)


def test_new_layers_come_from_the_seed(narrow):
    first, again, other = (build(narrow, "c4", 2, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["rpn.head.conv.0.0.weight"], other["rpn.head.conv.0.0.weight"])
    assert torch.equal(first["backbone.conv1.weight"], other["backbone.conv1.weight"])
    random = build(narrow, "c4", 2, untrained=True).state_dict()
    assert not torch.equal(first["backbone.conv1.weight"], random["backbone.conv1.weight"])


def test_c4_sees_the_network_up_to_layer3(narrow):
    network = narrow.build().eval()
    x = torch.randn(2, 3, 64, 96)
    seen = []
    network.layer4.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(x)
    detector = build(narrow, "c4", 2)
    assert list(dict(detector.roi_heads.box_head.named_children())) == [
        "layer4",
        "norm",
        "pool",
        "flatten",
    ]
    trunk = detector.backbone.eval()
    assert torch.equal(trunk(x), seen[0])
    assert trunk.out_channels == 32 and trunk(x).shape[2:] == (4, 6)


def test_regions_are_read_where_they_are():
    # what is read is where: position i is the centre of image pixels 16 i to 16 i + 16
    ramp = torch.arange(40.0)
    features = torch.stack([ramp.expand(30, 40), ramp[:30, None].expand(30, 40)])[None]
    box = torch.tensor([[100.0, 60.0, 421.0, 300.0]])
    read = AlignedRegions(16)({"0": features}, [box], [(480, 640)])
    assert read.shape == (1, 2, 14, 14)
    bins = (torch.arange(14) + 0.5) / 14
    torch.testing.assert_close(read[0, 0, 3], (100 + 321 * bins) / 16 - 0.5)
    torch.testing.assert_close(read[0, 1, :, 5], (60 + 240 * bins) / 16 - 0.5)


def test_images_are_only_normalised_and_padded(narrow):
    model = build(narrow, "c4", 1, channels=8, regions=16).eval()
    images = [torch.rand(3, 40, 70), torch.rand(3, 64, 50)]
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    batch, _ = model.transform([image.clone() for image in images])
    assert batch.tensors.shape == (2, 3, 64, 96) and batch.image_sizes == [(40, 70), (64, 50)]
    for i, image in enumerate(images):
        h, w = image.shape[1:]
        torch.testing.assert_close(batch.tensors[i, :, :h, :w], (image - mean) / deviation)
        assert batch.tensors[i, :, h:].abs().sum() == 0 == batch.tensors[i, :, :, w:].abs().sum()
