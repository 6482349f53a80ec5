"""Methods and the extra negatives of swap against plain formulas; backbones; what moves the
weights."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn.functional import normalize

from tests.train.runs import Flat
from train.config import Optimiser
from train.methods import byol, instdisc, moco, simclr
from train.methods.byol import BYOL, regression_loss
from train.methods.instdisc import InstDisc, nce
from train.methods.moco import MoCo, info_nce
from train.methods.simclr import SimCLR, interleave, nt_xent
from train.network import SplitBatchNorm2d, Subsampled1x1, backbone
from train.optimise import Lars, make_optimizer
from train.presets import configure

SMALL = {
    "network": "resnet10",
    "stem": "small",
    "width": 4,
    "size": 16,
    "batch": 8,
    "queue": 20,
    "splits": 2,
    "dim": 8,
    "negatives": 10,
}


def small(method: str, **changes) -> nn.Module:
    """A method on a real network."""
    made = configure(images="", out="", method=method, **(SMALL | changes))
    torch.manual_seed(0)
    return made.method.make(made, 40)


def flat() -> Flat:
    torch.manual_seed(0)
    return Flat()


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def plain(own: float, others: list[float]) -> tuple[float, float]:
    """Cross entropy of a query whose scores these are, and whether its own is the largest."""
    total = math.exp(own) + sum(map(math.exp, others))
    return -math.log(math.exp(own) / total), float(own >= max(others))


def assert_means(result: Sequence[torch.Tensor], rows: list[tuple[float, float]]) -> None:
    """A method's loss and accuracy are the means of the plain ones."""
    assert [value.item() for value in result] == pytest.approx(np.mean(rows, 0), rel=1e-5)


COUNTS = [None, torch.tensor([True, False, False, True, True])]  # whose extra negative counts


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("counts", COUNTS)
def test_nt_xent_is_the_plain_formula(temperature, extra, counts):
    z, negative = unit(10, 6), unit(5, 6, seed=1)
    result = nt_xent(z, temperature, negative if extra else None, counts)
    similar, own = (z @ z.T / temperature).tolist(), negative.repeat_interleave(2, 0)
    own = ((z * own).sum(1) / temperature).tolist()
    rows = []
    for i, scores in enumerate(similar):
        others = [score for j, score in enumerate(scores) if j not in (i, i ^ 1)]
        has_own = extra and (counts is None or counts[i // 2])
        rows.append(plain(scores[i ^ 1], others + [own[i]] * has_own))
    assert_means(result, rows)


@pytest.mark.parametrize(
    ("batch", "dim", "length", "temperature"), [(5, 8, 16, 0.2), (7, 3, 5, 0.07), (1, 2, 1, 1.0)]
)
@pytest.mark.parametrize("batch_negatives", [False, True])
@pytest.mark.parametrize("extra", [False, True])
def test_info_nce_is_the_plain_formula(batch, dim, length, temperature, batch_negatives, extra):
    """Also where an extra negative does not count: its gradient is 0."""
    query, key, queue = unit(batch, dim), unit(batch, dim, seed=1), unit(length, dim, seed=2).T
    negative, counts = unit(batch, dim, seed=3), COUNTS[1] if batch == 5 else None
    query.requires_grad_()
    negative.requires_grad_()
    sets = (negative, counts) if extra else ()
    result = info_nce(query, key, queue, temperature, batch_negatives, *sets)
    rows = []
    for i, q in enumerate(query.detach()):
        others = [k for j, k in enumerate(key) if batch_negatives and j != i] + [*queue.T]
        if extra and (counts is None or counts[i]):
            others.append(negative[i].detach())
        own, *scores = ((q @ k / temperature).item() for k in (key[i], *others))
        rows.append(plain(own, scores))
    assert_means(result, rows)
    result[0].backward()
    assert query.grad.isfinite().all()
    if extra and counts is not None:
        assert (negative.grad.abs().sum(1) > 0).tolist() == counts.tolist()


def assert_moved(before: list, slow: nn.Module, fast: nn.Module, stays: float) -> None:
    for old, new, online in zip(before, slow.parameters(), fast.parameters(), strict=True):
        assert torch.allclose(new, stays * old + (1 - stays) * online, atol=1e-6)


@pytest.mark.parametrize("extra", [False, True])
def test_simclr_pairs_the_views_of_each_image(extra):
    model = SimCLR(flat(), simclr.Settings(dim=4, temperature=0.5))
    batches = torch.randn(3, 5, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    loss, _ = model(batches[:2], 0, None, batches[2] if extra else None)
    with torch.no_grad():
        a, b, negative = (normalize(model.encoder(x), dim=1) for x in batches)
    expected, _ = nt_xent(torch.stack([a, b], 1).flatten(0, 1), 0.5, negative if extra else None)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all()
        for p in model.parameters()
        if p.requires_grad
    )
    joined = interleave(list(batches))
    assert torch.equal(joined[3], batches[0][1]) and torch.equal(joined[5], batches[2][1])
    assert joined.is_contiguous(memory_format=torch.channels_last)


def test_simclrs_head_has_batch_norm_after_both_layers_and_no_last_shift():
    head = small("simclr", head_norm=True, hidden=12).encoder.fc
    layers = [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d]
    assert [type(m) for m in head] == layers
    assert head[0].bias is None and head[3].bias is None and not head[4].bias.requires_grad
    assert head[0].weight.shape == (12, 32) and head[3].weight.shape == (8, 12)


def test_byols_loss_is_the_plain_formula():
    prediction, target = torch.randn(5, 4) * 3, torch.randn(5, 4)
    loss, accuracy = regression_loss(prediction, target)
    lengths = np.outer(*(np.linalg.norm(x, axis=1) for x in (prediction, target)))
    cosines = prediction.numpy() @ target.numpy().T / lengths
    assert loss.item() == pytest.approx((2 - 2 * np.diag(cosines)).mean(), rel=1e-5)
    assert accuracy.item() == pytest.approx((cosines.argmax(1) == np.arange(5)).mean())


def test_byol_is_symmetric_and_its_target_follows_by_a_cosine():
    model = BYOL(flat(), byol.Settings(dim=4, momentum=0.9), steps=10)
    views = torch.randn(2, 5, 3, 2, 2)
    loss, _ = model(views, 0, None)
    with torch.no_grad():
        first, second = (model.predictor(model.encoder(view)) for view in views)
        targets = [model.target(view) for view in views]
        ways = regression_loss(first, targets[1])[0] + regression_loss(second, targets[0])[0]
    assert loss.item() == pytest.approx(ways.item(), rel=1e-5)
    loss.backward()
    assert all(p.grad is None for p in model.target.parameters())
    assert all(p.grad is not None for m in (model.encoder, model.predictor) for p in m.parameters())
    assert [model.tau(step) for step in (0, 5, 10)] == pytest.approx([0.9, 0.95, 1])
    before = [p.clone() for p in model.target.parameters()]
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.add_(1)
    model(views, 4, None)  # the update of step 3 comes first
    tau = 1 - 0.1 * (math.cos(math.pi * 3 / 10) + 1) / 2
    assert_moved(before, model.target, model.encoder, tau)


def test_nce_is_the_plain_formula():
    logits, images, z = torch.randn(5, 8) * 3, 30, 17.0
    loss, accuracy = nce(logits, torch.tensor(z).log(), images)
    noise_density, m, losses, hits = 1 / images, 7, [], []
    for own, *noise in logits.tolist():

        def data(x):  # the probability that a sample is data and not noise
            return (math.exp(x) / z) / (math.exp(x) / z + m * noise_density)

        losses.append(-math.log(data(own)) - sum(math.log(1 - data(x)) for x in noise))
        hits.append(own >= max(noise))
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert accuracy.item() == pytest.approx(np.mean(hits))


def test_instdisc_estimates_z_once_and_moves_its_bank():
    settings = instdisc.Settings(dim=4, temperature=0.5, head="linear", negatives=6)
    model = InstDisc(flat(), settings, 20)
    view, index = torch.randn(5, 3, 2, 2), torch.tensor([3, 0, 19, 7, 8])
    bank = model.bank.clone()
    assert torch.allclose(bank.norm(dim=1), torch.ones(20))
    noise = model.noise(0, index)
    loss, _ = model([view], 0, index)
    with torch.no_grad():
        query = normalize(model.encoder(view), dim=1)
    rows = torch.cat([index[:, None], noise], 1)
    logits = torch.stack([bank[row] @ q / 0.5 for row, q in zip(rows, query, strict=True)])
    assert model.log_z.exp().item() == pytest.approx(20 * logits.exp().mean().item(), rel=1e-5)
    assert loss.item() == pytest.approx(nce(logits, model.log_z, 20)[0].item(), rel=1e-5)
    bank[index] = normalize(0.5 * bank[index] + 0.5 * query, dim=1)
    assert torch.allclose(model.bank, bank, atol=1e-6)
    z = model.log_z.clone()
    model([view], 1, index)
    assert torch.equal(model.log_z, z)


def test_instdiscs_noise_is_uniform_new_each_step_and_repeatable():
    model = InstDisc(flat(), instdisc.Settings(negatives=2000), 20, seed=3)
    index = torch.arange(5)
    drawn = model.noise(7, index)
    assert drawn.shape == (5, 2000) and torch.equal(drawn, model.noise(7, index))
    assert not torch.equal(drawn, model.noise(8, index)) and not torch.equal(drawn[0], drawn[1])
    counts = torch.bincount(drawn.flatten(), minlength=20).double()
    assert (
        len(counts) == 20 and ((counts - 500) ** 2 / 500).sum() < 43.8
    )  # chi-square, 19 degrees, 0.1 %


def test_mocos_extra_negatives_are_keys_that_never_enter_the_queue():
    batches = torch.randn(3, 4, 3, 2, 2)
    model = MoCo(flat(), moco.Settings(dim=4, queue=8, momentum=0.9, head="linear"))
    queue = model.queue.clone()
    loss, _ = model(batches[:2], 0, None, batches[2])
    with torch.no_grad():
        query, key, extra = (
            normalize(e(x), dim=1)
            for e, x in zip((model.query, model.key, model.key), batches, strict=True)
        )
    expected, _ = info_nce(query, key, queue, 0.2, False, extra)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert isinstance(model.query.fc, nn.Linear) and model.pointer.item() == 4
    queue[:, :4] = key.T
    assert torch.allclose(model.queue, queue)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lars_is_the_plain_formula(weight_decay):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[2].weight.zero_()  # its ratio is 1
    settings = Optimiser(optimizer="lars", lr=2.0, weight_decay=weight_decay)
    optimizer = make_optimizer(settings, model)
    assert isinstance(optimizer, Lars)
    expected = {name: p.detach().double().numpy().copy() for name, p in model.named_parameters()}
    velocity = {name: np.zeros_like(p) for name, p in expected.items()}
    x = torch.randn(6, 3)
    for rate in (2.0, 0.5):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        for name, p in model.named_parameters():
            g, w = p.grad.double().numpy().copy(), expected[name]
            if w.ndim > 1:
                g += weight_decay * w
                if np.linalg.norm(w) > 0 and np.linalg.norm(g) > 0:
                    g *= 0.001 * np.linalg.norm(w) / np.linalg.norm(g)
            velocity[name] = 0.9 * velocity[name] + rate * g
            expected[name] = w - velocity[name]
        optimizer.step()
        for name, p in model.named_parameters():
            assert np.allclose(p.detach().numpy(), expected[name], rtol=1e-4, atol=1e-6), name


def tiny(queue: int = 10, symmetric: bool = False) -> MoCo:
    changes = {"queue": queue, "symmetric": symmetric, "momentum": 0.9, "splits": 1}
    return small("moco", **changes)


def test_queue_holds_the_newest_keys_and_need_not_divide_by_the_batch():
    model = tiny(queue=10)
    keys = unit(24, 8)
    for i in range(4):  # 24 keys in batches of 6 through a queue of 10
        model.enqueue(keys[6 * i : 6 * i + 6])
    held = {tuple(k) for k in model.queue.T.tolist()}
    assert held == {tuple(k) for k in keys[14:].tolist()} and model.pointer.item() == 4
    more = unit(25, 8, seed=3)  # more than it holds
    model.enqueue(more)
    assert {tuple(k) for k in model.queue.T.tolist()} == {tuple(k) for k in more[15:].tolist()}


def test_key_encoder_follows_by_momentum_and_gets_no_gradient():
    model = tiny()
    before = [p.clone() for p in model.key.parameters()]
    with torch.no_grad():
        for p in model.query.parameters():
            p.add_(1)
    model.train()
    loss, _ = model((torch.randn(4, 3, 16, 16), torch.randn(4, 3, 16, 16)), step=0)
    assert_moved(before, model.key, model.query, 0.9)
    loss.backward()
    assert all(p.grad is None for p in model.key.parameters())
    assert all(p.grad is not None for p in model.query.parameters())


def test_keys_are_returned_in_the_order_of_their_queries():
    model = tiny().eval()  # in eval mode BatchNorm does not mix samples, so a shuffle must not show
    views = torch.randn(6, 3, 16, 16)
    with torch.no_grad():
        plain = normalize(model.key(views), dim=1)
        assert torch.allclose(model.keys(views, 3, 0), plain, atol=1e-5)


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


@pytest.mark.parametrize("network", ["resnet18", "resnet50"])
def test_backbones_carry_torchvisions_keys(network):
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
    views = torch.randn(8, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    network(views).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())
