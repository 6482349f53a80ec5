"""TokenCut: the eigenvector against a dense solver, planted objects found, and the features of
timm's transformers."""

import numpy as np
import pytest
import timm
import torch
from scipy.linalg import eigh

from data.cli import UsageError
from data.resize import resize
from preprocess import estimators
from preprocess.estimators.dino import DINO
from preprocess.networks import tokencut, vit


@pytest.mark.parametrize("seed", range(5))
def test_the_eigenvector_is_the_dense_generalised_one(seed):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(3, 6))
    features = centres[rng.integers(0, 3, 120)] + rng.normal(0, 0.6, (120, 6))
    weight = tokencut.affinity(features)
    assert set(np.unique(weight)) == {tokencut.EPSILON, 1.0} and np.array_equal(weight, weight.T)
    cosine = features @ features.T / np.outer(*2 * [np.linalg.norm(features, axis=1)])
    assert np.array_equal(weight == 1, cosine > 0.2)
    degree = np.diag(weight.sum(1))
    values, vectors = eigh(degree - weight, degree, subset_by_index=[0, 2])
    assert values[2] - values[1] > 1e-3  # else any vector of a plane would be right
    found, dense = tokencut.second_vector(weight), vectors[:, 1]
    assert abs(found @ dense) / (np.linalg.norm(found) * np.linalg.norm(dense)) == pytest.approx(
        1, abs=1e-9
    )
    assert np.array_equal(found, tokencut.second_vector(weight))


@pytest.mark.parametrize("seed", range(6))
def test_a_planted_object_is_cut_out(seed):
    rng = np.random.default_rng(seed)
    object_ = np.zeros((14, 18), bool)
    y, x = rng.integers(1, 6, 2)
    object_[y : y + 5, x : x + 6] = True
    apart = np.zeros_like(object_)
    apart[-2:, -2:] = True  # rather of the object's kind, but not connected to it
    one, other = rng.normal(size=(2, 16))
    other -= one * (one @ other) / (one @ one)
    features = np.where(object_.reshape(-1, 1), one, other) + rng.normal(0, 0.3, (14 * 18, 16))
    features[apart.reshape(-1)] += (
        1.2 * one
    )  # linked to both sides: a smaller value, which is never the seed
    saliency = tokencut.cut(features, 14, 18)
    assert saliency.dtype == np.float32 and np.array_equal(saliency == 1, object_)


def test_a_picture_with_nothing_to_cut_gives_an_empty_map():
    assert not tokencut.cut(np.ones((16, 3)), 4, 4).any()
    assert not tokencut.cut(np.eye(16), 4, 4).any()
    assert np.isfinite(tokencut.cut(np.zeros((16, 3)), 4, 4)).all()


def tiny(scaled=False, channels=32):
    torch.manual_seed(0)
    return vit.build(patch=8, channels=channels, blocks=2, grid=4, scaled=scaled).eval()


def test_key_features_are_the_last_layers_keys():
    """Against the last block's input put through its norm and projection by hand."""
    network, x = (
        tiny(channels=128),
        torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1)),
    )
    with torch.no_grad():
        before = network.forward_intermediates(
            x, indices=[0], output_fmt="NLC", norm=False, intermediates_only=True
        )[0]
        block = network.blocks[1]
        weight, bias = block.attn.qkv.weight[128:256], block.attn.qkv.bias[128:256]
        expected = block.norm1(before) @ weight.T + bias
        found = vit.keys(network, x)
    assert found.shape == (2, 4 * 6, 128) and torch.allclose(found, expected, atol=1e-5)
    assert not network.blocks[1].attn.qkv._forward_hooks


def planted(height=64, width=96):
    """A red box on blue, and where it is."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:] = (20, 40, 220)
    where = np.zeros((height, width), bool)
    where[16:48, 24:60] = True
    image[where] = (230, 30, 20)
    return image, where


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "dino.pth"
    network = tiny()
    torch.nn.init.zeros_(
        network.pos_embed
    )  # random positions would drown a random network's colours
    torch.save({"teacher": {f"backbone.{k}": v for k, v in network.state_dict().items()}}, path)
    return path


def test_an_object_of_one_colour_is_found_in_batches(weights):
    estimator = estimators.load(
        "dino", weights=str(weights), side=96, tau=0.9
    )  # a random network tells little apart
    image, where = planted()
    flipped = np.ascontiguousarray(image[:, ::-1])
    maps = estimator.batch([image, flipped, np.full_like(image, 128)])
    assert [m.shape for m in maps] == [(12, 12)] * 3 and not maps[2].any()
    for found, expected in zip(maps[:2], (where, where[:, ::-1]), strict=True):
        resized = resize(found, 96, 64) > 0.5
        assert (resized & expected).sum() / (resized | expected).sum() > 0.8
    assert np.array_equal(maps[0], estimator.working(image))
    assert 0 < (estimator(image) > 0).mean() < 0.5


@pytest.mark.parametrize(
    "name", ["vit_small_patch16_224.dino", "vit_base_patch8_224.dino", "vit_small_patch14_dinov2"]
)
def test_the_networks_of_dino_are_recognised_by_their_shapes(name):
    with torch.device("meta"):
        wanted = timm.create_model(name, num_classes=0).state_dict()
        extra = (
            {"mask_token": torch.zeros(1, 384)}
            if "dinov2" in name
            else {"head.weight": torch.zeros(1)}
        )
        found = DINO().build(DINO().convert({**wanted, **extra})).state_dict()
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in wanted.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("pos_embed"), "no vision transformer: pos_embed is missing"),
        (
            lambda s: s.update(pos_embed=torch.zeros(1).expand(1, 10**10, 32)),
            "no vision transformer of DINO or DINOv2",
        ),
        (
            lambda s: s.update({"blocks.9999.x": torch.zeros(1)}),
            "no vision transformer of DINO or DINOv2",
        ),
        (
            lambda s: s.update(register_tokens=torch.zeros(1, 4, 32)),
            "no weights of dino; 1 unexpected: register_tokens",
        ),
    ],
)
def test_another_transformer_is_one_line(tmp_path, change, message):
    state = tiny().state_dict()
    change(state)
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(UsageError) as error:
        estimators.load("dino", weights=str(tmp_path / "bad.pth"))
    assert str(error.value).startswith(f"{tmp_path / 'bad.pth'}: {message}")
