"""MoCo v2's parts against plain formulas."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from train.methods.moco import MoCo, info_nce
from train.network import SplitBatchNorm2d, Subsampled1x1, backbone


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return nn.functional.normalize(
        torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1
    )


@pytest.mark.parametrize("batch_negatives", [False, True])
@pytest.mark.parametrize(
    ("batch", "dim", "length", "temperature"), [(4, 8, 16, 0.2), (7, 3, 5, 0.07), (1, 2, 1, 1.0)]
)
def test_info_nce_is_the_plain_formula(batch, dim, length, temperature, batch_negatives):
    query, key, queue = unit(batch, dim), unit(batch, dim, seed=1), unit(length, dim, seed=2).T
    loss, accuracy = info_nce(query, key, queue, temperature, batch_negatives)
    losses, hits = [], []
    for i, (q, k) in enumerate(zip(query.tolist(), key.tolist(), strict=True)):
        others = [
            n for j, n in enumerate(key.tolist()) if batch_negatives and j != i
        ] + queue.T.tolist()
        positive = sum(a * b for a, b in zip(q, k, strict=True)) / temperature
        negatives = [sum(a * b for a, b in zip(q, n, strict=True)) / temperature for n in others]
        losses.append(-positive + math.log(math.exp(positive) + sum(map(math.exp, negatives))))
        hits.append(positive >= max(negatives))
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert accuracy.item() == pytest.approx(np.mean(hits))


def tiny(queue: int = 10, momentum: float = 0.9, symmetric: bool = False) -> MoCo:
    torch.manual_seed(0)
    return MoCo(lambda: backbone("resnet10", "small", 4), 8, queue, momentum, 0.2, symmetric)


def test_queue_holds_the_newest_keys_and_need_not_divide_by_the_batch():
    model = tiny(queue=10)
    keys = unit(24, 8)
    for i in range(4):  # 24 keys in batches of 6 through a queue of 10
        model._enqueue(keys[6 * i : 6 * i + 6])
    held = {tuple(k) for k in model.queue.T.tolist()}
    assert held == {tuple(k) for k in keys[14:].tolist()} and model.pointer.item() == 4
    model._enqueue(unit(25, 8, seed=3))  # more than it holds
    assert {tuple(k) for k in model.queue.T.tolist()} == {
        tuple(k) for k in unit(25, 8, seed=3)[15:].tolist()
    }


def test_key_encoder_follows_by_momentum_and_gets_no_gradient():
    model = tiny(momentum=0.9)
    before = [p.clone() for p in model.key.parameters()]
    with torch.no_grad():
        for p in model.query.parameters():
            p.add_(1)
    model.train()
    loss, _ = model((torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16)), step=0)
    for key, old, query in zip(
        model.key.parameters(), before, model.query.parameters(), strict=True
    ):
        assert torch.allclose(key, 0.9 * old + 0.1 * query, atol=1e-6)
    loss.backward()
    assert all(p.grad is None for p in model.key.parameters())
    assert all(p.grad is not None for p in model.query.parameters())


def test_keys_are_returned_in_the_order_of_their_queries():
    model = tiny().eval()  # in eval mode BatchNorm does not mix samples, so a shuffle must not show
    views = torch.randn(6, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(
            model._keys(views, 3, 0), nn.functional.normalize(model.key(views), dim=1), atol=1e-5
        )


def test_symmetric_loss_is_the_mean_of_both_ways():
    views = torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16)
    model = tiny(symmetric=True).eval()
    both = model(views, step=0)[0]
    one = tiny().eval()(views, step=0)[0]
    other = tiny().eval()(views[::-1], step=0)[0]
    assert both.item() == pytest.approx((one + other).item() / 2, rel=1e-5)
    assert model.pointer.item() == 8


def test_split_batch_norm_is_batch_norm_of_each_part():
    split, plain = SplitBatchNorm2d(5, splits=3), nn.BatchNorm2d(5)
    x = torch.randn(12, 5, 4, 4).contiguous(memory_format=torch.channels_last)
    out = split(x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    means = []
    for i in range(3):
        part = nn.BatchNorm2d(5)
        assert torch.allclose(out[4 * i : 4 * i + 4], part(x[4 * i : 4 * i + 4]), atol=1e-6)
        means.append(part.running_mean)
    assert torch.allclose(split.running_mean, torch.stack(means).mean(0), atol=1e-6)
    plain.load_state_dict(split.state_dict())
    assert torch.allclose(split.eval()(x), plain.eval()(x))
    with pytest.raises(ValueError, match="does not divide"):
        split.train()(x[:10])


@pytest.mark.parametrize("network", ["resnet18", "resnet50"])
def test_backbones_carry_torchvisions_keys(network):
    import torchvision

    theirs = getattr(torchvision.models, network)(weights=None).state_dict()
    ours = backbone(network, splits=2).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize("stride", [1, 2])
def test_subsampled_convolution_is_the_strided_one(stride):
    own = Subsampled1x1(16, 24, stride)
    plain = torch.nn.Conv2d(16, 24, 1, stride, bias=False)
    plain.load_state_dict(own.state_dict())
    x = torch.randn(3, 16, 9, 7)
    assert torch.allclose(own(x), plain(x), atol=1e-6)


def test_the_narrowest_network_trains_in_channels_last():
    network = backbone("resnet10", "small", 4).to(memory_format=torch.channels_last)
    network(
        torch.randn(8, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    ).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())
