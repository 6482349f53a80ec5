"""Methods and the extra negatives of swap against plain formulas; LARS."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from tests.train.runs import Flat
from train.config import Optimiser
from train.methods import byol, instdisc, moco, simclr
from train.optimise import make_optimizer

COUNTS = [None, [True, False, False, True, True]]  # whose extra negative counts


def flat() -> Flat:
    torch.manual_seed(0)
    return Flat()


def views(count: int = 3) -> list[torch.Tensor]:
    return list(torch.randn(count, 5, 3, 2, 2, generator=torch.Generator().manual_seed(1)))


@torch.no_grad()
def encoded(encoder: nn.Module, batches: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [normalize(encoder(batch), dim=1) for batch in batches]


def plain(own: float, others: list[float]) -> tuple[float, float]:
    """Cross entropy of a query whose scores these are, and whether its own is the largest."""
    total = math.exp(own) + sum(map(math.exp, others))
    return -math.log(math.exp(own) / total), float(own >= max(others))


def assert_means(result: Sequence[torch.Tensor], rows: list[tuple[float, float]]) -> None:
    """A method's loss and accuracy are the means of the plain ones; the loss has gradients."""
    assert [value.item() for value in result] == pytest.approx(np.mean(rows, 0), rel=1e-5)
    result[0].backward()


def moved(model: nn.Module) -> list[torch.Tensor]:
    with torch.no_grad():
        for p in model.encoder.parameters():
            p.add_(torch.randn(p.shape))
    return [p.clone() for p in model.slow.parameters()]


def assert_follows(before: list, model: nn.Module, stays: float) -> None:
    pairs = zip(before, model.slow.parameters(), model.encoder.parameters(), strict=True)
    for old, new, online in pairs:
        assert torch.allclose(new, stays * old + (1 - stays) * online, atol=1e-6)
        assert new.grad is None and online.grad.isfinite().all()


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("counts", COUNTS)
def test_simclr_is_the_plain_formula(extra, counts):
    model, batches = simclr.SimCLR(flat(), simclr.Settings(dim=4, temperature=0.07)), views()
    negatives = (batches[2], counts and torch.tensor(counts)) if extra else ()
    a, b, negative = encoded(model.encoder, batches)
    rows = []
    for i in range(5):
        own = [negative[i]] if extra and (not counts or counts[i]) else []
        others = [z for j in range(5) if j != i for z in (a[j], b[j])]
        for view, partner in ((a[i], b[i]), (b[i], a[i])):
            scores = [(view @ z / 0.07).item() for z in (partner, *others, *own)]
            rows.append(plain(scores[0], scores[1:]))
    assert_means(model(batches[:2], 0, None, *negatives), rows)


@pytest.mark.parametrize("options", [{}, {"symmetric": True}, {"batch_negatives": True}])
@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("counts", COUNTS)
def test_moco_is_the_plain_formula(options, extra, counts):
    settings = moco.Settings(dim=4, queue=13, momentum=0.9, head="linear", **options)
    model, batches = moco.MoCo(flat(), settings), views()
    before, queue = moved(model), model.queue.clone()
    negatives = (batches[2], counts and torch.tensor(counts)) if extra else ()
    result = model(batches[:2], 0, None, *negatives)
    queries, keys = encoded(model.query, batches), encoded(model.key, batches)
    rows, ways = [], [(0, 1), (1, 0)] if settings.symmetric else [(0, 1)]
    for q, k in ways:
        for i, query in enumerate(queries[q]):
            others = [*queue.T] + [keys[2][i]] * (extra and (not counts or counts[i]))
            others += [key for j, key in enumerate(keys[k]) if settings.batch_negatives and j != i]
            scores = [(query @ z / 0.2).item() for z in (keys[k][i], *others)]
            rows.append(plain(scores[0], scores[1:]))
    assert_means(result, rows)
    assert_follows(before, model, 0.9)
    # the newest keys over the oldest; its length need not divide by the batch
    new = torch.cat([keys[k] for _, k in ways])
    assert torch.allclose(model.queue, torch.cat([new.T, queue[:, len(new) :]], 1), atol=1e-6)
    more = torch.randn(11, 4)
    model.enqueue(more)
    held = {tuple(k) for k in model.queue.T.tolist()}
    assert held > {tuple(k) for k in more.tolist()} and model.pointer == (len(new) + 11) % 13
    model.enqueue(torch.cat([new, new, more]))  # more than it holds
    assert {tuple(k) for k in model.queue.T.tolist()} > {tuple(k) for k in more.tolist()}


def test_byol_is_the_plain_formula():
    model, batches = byol.BYOL(flat(), byol.Settings(dim=4, momentum=0.9), steps=10), views(2)
    before = moved(model)
    result = model(batches, 4, None)
    predictions = encoded(nn.Sequential(model.encoder, model.predictor), batches)
    targets = encoded(model.target, batches)
    cosines = [(predictions[i] @ targets[1 - i].T).numpy() for i in range(2)]
    rows = [(2 - 2 * c[i, i], c[i].argmax() == i) for c in cosines for i in range(5)]
    assert_means((result[0] / 2, result[1]), rows)  # the loss is the sum over both roles
    assert all(p.grad is not None for p in model.predictor.parameters())
    # the update of step 3 comes first
    assert_follows(before, model, 1 - 0.1 * (math.cos(math.pi * 3 / 10) + 1) / 2)


def test_instdisc_is_the_plain_formula():
    settings = instdisc.Settings(dim=4, temperature=0.5, head="linear", negatives=6)
    model, (view,) = instdisc.InstDisc(flat(), settings, 20), views(1)
    index, bank, z = torch.tensor([3, 0, 19, 7, 8]), model.bank.clone(), None
    assert torch.allclose(bank.norm(dim=1), torch.ones(20))
    for step in range(2):
        (query,) = encoded(model.encoder, [view])
        entries = bank[torch.cat([index[:, None], model.noise(step, index)], 1)]
        exponents = torch.einsum("bmd,bd->bm", entries, query).div(0.5).exp()
        z = 20 * exponents.mean() if z is None else z
        rows = []
        for scores in (exponents / z).tolist():
            # the probability that a sample is data and not noise of density 1 / 20
            own, *noise = (p / (p + 6 / 20) for p in scores)
            loss = -math.log(own) - sum(math.log(1 - share) for share in noise)
            rows.append((loss, own >= max(noise)))
        assert_means(model([view], step, index), rows)
        bank[index] = normalize(0.5 * bank[index] + 0.5 * query, dim=1)
        assert torch.allclose(model.bank, bank, atol=1e-6)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lars_is_the_plain_formula(weight_decay):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))
    nn.init.zeros_(model[2].weight)  # its ratio is 1
    settings = Optimiser(optimizer="lars", lr=2.0, weight_decay=weight_decay)
    optimizer = make_optimizer(settings, model)
    expected = [p.detach().clone() for p in model.parameters()]
    velocity = [torch.zeros_like(p) for p in expected]
    for rate in (2.0, 0.5):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        (model(torch.randn(6, 3)) - 1).square().mean().backward()
        for i, p in enumerate(model.parameters()):
            g, w = p.grad.clone(), expected[i]
            if w.ndim > 1:
                g += weight_decay * w
                g *= 0.001 * w.norm() / g.norm() if w.norm() * g.norm() > 0 else 1
            velocity[i] = 0.9 * velocity[i] + rate * g
            expected[i] = w - velocity[i]
        optimizer.step()
        torch.testing.assert_close([*model.parameters()], expected, rtol=1e-4, atol=1e-6)
