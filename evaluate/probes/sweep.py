"""Linear classifiers at several learning rates at once, on cached features of one centre crop an
image: the fast mode.

Not MoCo's protocol, which sees new random crops every epoch: its accuracies are close to, but not
those of it.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from evaluate.features import TrainVal, accuracy_by_class
from evaluate.probes.schedule import Order, Schedule
from train.streams import WEIGHTS, stream

HELD_OUT = 0.1  # share of every class's training images that choose the rate


def fit_all(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    rates: tuple[float, ...],
    schedule: Schedule,
    device: torch.device,
    rows: np.ndarray | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One classifier a rate by SGD with `schedule`, all on the same batches.

    Args:
        features: (N, D) floats, in memory or mapped.  labels: (N,) int.  rows: of them to train on,
            or all.

    Returns:
        weights (R, C, D) and biases (R, C), float32 on `device`; not finite where a rate diverged.
    """
    start = torch.Generator().manual_seed(schedule.seed)
    weight = torch.empty(classes, features.shape[1]).normal_(0, 0.01, generator=start).to(device)
    weight = weight.expand(len(rates), -1, -1).contiguous().requires_grad_()
    bias = torch.zeros(len(rates), 1, classes, device=device, requires_grad=True)
    groups = [(p, torch.zeros_like(p)) for p in (weight, bias)]
    rate = torch.tensor(rates, device=device)[:, None, None]
    targets = torch.from_numpy(np.asarray(labels, np.int64))
    rows = np.arange(len(features)) if rows is None else rows
    order = Order(len(rows), schedule, 0)
    name = f"sweep, {len(rates)} rates"
    with tqdm(total=len(order), desc=name, unit="step", leave=False) as bar:
        for step, items in enumerate(order):
            # sorted: the map is read forwards
            some = np.sort(rows[[place for _, place in items]])
            x = torch.from_numpy(np.asarray(features[some], np.float32)).to(device)
            y = targets[torch.from_numpy(some)].to(device).repeat(len(rates))
            logits = torch.baddbmm(bias, x.expand(len(rates), -1, -1), weight.transpose(1, 2))
            # summed over rates: each classifier's gradient is that of its own mean loss
            loss = F.cross_entropy(logits.flatten(0, 1), y, reduction="sum") / len(x)
            loss.backward()
            with torch.no_grad():
                for parameter, velocity in groups:
                    velocity.mul_(schedule.momentum).add_(parameter.grad)
                    velocity.add_(schedule.weight_decay * parameter)
                    parameter.sub_(rate * schedule.factor(step, order.steps) * velocity)
                    parameter.grad = None
            bar.update()
    return weight.detach(), bias.detach()[:, 0]


def hits(
    weight: torch.Tensor, bias: torch.Tensor, features: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """(R, N, min(5, C)) bool: whether each of the first classes is the right one, by rate; a
    diverged rate has none."""
    first = min(5, weight.shape[1])
    found = np.zeros((len(weight), len(features), first), bool)
    for start in range(0, len(features), 1024):
        part = slice(start, start + 1024)
        x = torch.from_numpy(np.asarray(features[part], np.float32)).to(weight.device)
        logits = torch.baddbmm(bias[:, None], x.expand(len(weight), -1, -1), weight.transpose(1, 2))
        finite = torch.isfinite(logits).all(2, keepdim=True).cpu().numpy()
        best = logits.nan_to_num(-torch.inf).topk(first, dim=2).indices.cpu().numpy()
        found[:, part] = (best == np.asarray(labels)[part][None, :, None]) & finite
    return found


def hold_out(labels: np.ndarray, seed: int) -> np.ndarray:
    """(N,) bool: a tenth of every class (at least one, of classes of two or more), to choose a rate
    by."""
    chosen = np.zeros(len(labels), bool)
    rng = stream(WEIGHTS, seed, 0, 1)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = min(max(1, round(HELD_OUT * len(rows))), len(rows) - 1)
        chosen[rng.permutation(rows)[:count]] = True
    return chosen


def sweep(
    features: TrainVal, rates: tuple[float, ...], schedule: Schedule, device: torch.device
) -> dict:
    """Choose a rate on held-out training images, then train every rate on all of them and test it.

    Returns:
        {"top-1", "top-5" (more than five classes), "per_class", "lr": the chosen rate, "held_out":
        {rate: top-1}, "by_lr": {rate: top-1 on the test images}}, percent. Only the chosen rate's
        is a fair number.
    """
    train, labels, classes = features.train, features.labels, len(features.classes)
    held = hold_out(labels, schedule.seed)
    held_out = np.zeros(len(rates))
    if held.any():
        fitted = fit_all(train, labels, classes, rates, schedule, device, np.flatnonzero(~held))
        held_out = 100 * hits(*fitted, train[held], labels[held])[:, :, 0].mean(1)
    best = int(held_out.argmax())
    fitted = fit_all(train, labels, classes, rates, schedule, device)
    right = hits(*fitted, features.val, features.truth)
    first = right[:, :, 0]
    accuracy = {"top-1": 100 * float(first[best].mean())}
    if classes > 5:
        accuracy["top-5"] = 100 * float(right[best].any(1).mean())
    names = [f"{rate:g}" for rate in rates]
    return {
        **accuracy,
        "per_class": accuracy_by_class(first[best], features.truth, features.classes),
        "lr": rates[best],
        "held_out": dict(zip(names, held_out.tolist(), strict=True)),
        "by_lr": dict(zip(names, (100 * first.mean(1)).tolist(), strict=True)),
    }
