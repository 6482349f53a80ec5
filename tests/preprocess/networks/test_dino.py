"""TokenCut: planted objects found, and the features of timm's transformers."""

import numpy as np
import pytest
import timm
import torch

from data.resize import resize
from preprocess import estimators
from preprocess.estimators.dino import DINO
from preprocess.networks import vit
from tests.preprocess.runs import refusal


@pytest.mark.parametrize("seed", range(4))
def test_a_planted_object_is_cut_out(seed):
    rng = np.random.default_rng(seed)
    planted = np.zeros((16, 16), bool)
    y, x = rng.integers(1, 6, 2)
    planted[y : y + 5, x : x + 6] = True
    apart = np.zeros_like(planted)
    apart[-2:, -2:] = True  # rather of the object's kind, but not connected to it
    one, other = rng.normal(size=(2, 16))
    other -= one * (one @ other) / (one @ one)
    features = np.where(planted.reshape(-1, 1), one, other) + rng.normal(0, 0.3, (16 * 16, 16))
    features[apart.reshape(-1)] += 1.2 * one  # linked to both sides: never the seed
    assert np.array_equal(DINO().finish(features) == 1, planted)
    for nothing in (np.ones((16, 3)), np.eye(16), np.zeros((16, 3))):
        assert not DINO().finish(nothing).any()


def tiny(channels=32):
    torch.manual_seed(0)
    return vit.build(patch=8, channels=channels, blocks=2, grid=4, scaled=False).eval()


def test_key_features_are_the_last_layers_keys():
    network, x = tiny(channels=128), torch.randn(2, 3, 32, 48, generator=torch.manual_seed(1))
    options = {"output_fmt": "NLC", "norm": False, "intermediates_only": True}
    with torch.no_grad():
        before = network.forward_intermediates(x, indices=[0], **options)[0]
        block = network.blocks[1]
        weight, bias = block.attn.qkv.weight[128:256], block.attn.qkv.bias[128:256]
        expected = block.norm1(before) @ weight.T + bias
        keys = vit.keys(network, x)
    assert keys.shape == (2, 4 * 6, 128) and torch.allclose(keys, expected, atol=1e-5)


def test_an_object_of_one_colour_is_found(tmp_path):
    network = tiny()
    torch.nn.init.zeros_(network.pos_embed)  # random ones would drown a random network's colours
    state = {f"backbone.{key}": value for key, value in network.state_dict().items()}
    state |= {"backbone.mask_token": torch.zeros(1, 32), "backbone.head.weight": torch.zeros(9)}
    torch.save({"teacher": state}, tmp_path / "dino.pth")
    estimator = estimators.load("dino", weights=str(tmp_path / "dino.pth"), side=96, tau=0.9)
    image = np.full((64, 96, 3), (20, 40, 220), np.uint8)
    assert not estimator.working(image).any()
    where = np.zeros((64, 96), bool)
    where[16:48, 24:60] = True
    image[where] = (230, 30, 20)
    found = resize(estimator.working(image), 96, 64) > 0.5
    assert (found & where).sum() / (found | where).sum() > 0.8


def test_the_networks_of_dino_are_recognised_by_their_shapes():
    for name in ("small_patch16_224.dino", "base_patch8_224.dino", "small_patch14_dinov2"):
        with torch.device("meta"):
            wanted = timm.create_model(f"vit_{name}", num_classes=0).state_dict()
            built = DINO().build(wanted).state_dict()
        assert {k: v.shape for k, v in built.items()} == {k: v.shape for k, v in wanted.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos_embed": None}, "no vision transformer: pos_embed is missing"),
        ({"pos_embed": torch.zeros(1).expand(1, 10**10, 32)}, "no vision transformer of DINO or"),
        ({"blocks.9999.x": torch.zeros(1)}, "no vision transformer of DINO or DINOv2"),
        ({"register_tokens": torch.zeros(4)}, "no weights of dino; 1 unexpected: register_tokens"),
    ],
)
def test_another_transformer_is_one_line(tmp_path, change, message):
    state = {k: v for k, v in (tiny().state_dict() | change).items() if v is not None}
    torch.save(state, tmp_path / "bad.pth")
    assert f"bad.pth: {message}" in refusal("dino", tmp_path / "bad.pth")
