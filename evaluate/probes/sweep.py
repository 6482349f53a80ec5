"""Linear classifiers at several learning rates at once, on cached features of one centre crop an
image: the fast mode.

Not MoCo's protocol, which sees new random crops every epoch: its accuracies are close to, but not
those of it.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from evaluate.features import TrainVal, accuracies, hits, project
from evaluate.probes.sgd import Order, Schedule
from train.streams import WEIGHTS, stream

HELD_OUT = 0.1  # share of every class's training images that choose the rate
BLOCK = 8192  # rows that are in memory at a time, with their scores


def fit_all(
    features: TrainVal,
    rates: tuple[float, ...],
    schedule: Schedule,
    device: torch.device,
    rows: np.ndarray | None = None,
) -> list[nn.Linear]:
    """One classifier a rate by SGD with `schedule`, all on the same batches.

    Args:
        rows: of the training features to train on, or all.

    Returns:
        their layers on `device`; not finite where a rate diverged.
    """
    train, labels = features.train, torch.from_numpy(features.labels)
    classes = len(features.classes)
    layers = [schedule.layer(train.shape[1], classes).to(device) for _ in rates]
    optimizer = schedule.optimizer(*layers)
    rows = np.arange(len(train)) if rows is None else rows
    order = Order(len(rows), schedule)
    name = f"sweep, {len(rates)} rates"
    for step, items in enumerate(tqdm(order, desc=name, unit="step", leave=False)):
        # sorted: the map is read forwards
        some = np.sort(rows[[place for _, place in items]])
        x = torch.from_numpy(np.asarray(train[some], np.float32)).to(device)
        y = labels[some].to(device)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * schedule.factor(step, order.steps)
        optimizer.zero_grad()
        # each classifier's gradient is that of its own loss
        sum(F.cross_entropy(layer(x), y) for layer in layers).backward()
        optimizer.step()
    return layers


def choose(labels: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of `counts[c]` labels of each class c, at random, or of all that there are: sorted (n,)
    int64."""
    rows = [rng.permutation(np.flatnonzero(labels == c))[:n] for c, n in enumerate(counts)]
    return np.sort(np.concatenate(rows))


def hold_out(labels: np.ndarray, seed: int) -> np.ndarray:
    """(N,) bool: a tenth of every class (at least one, of classes of two or more), to choose a rate
    by."""
    sizes = np.bincount(labels)
    counts = np.clip(np.rint(HELD_OUT * sizes).astype(int), 1, np.maximum(sizes - 1, 0))
    chosen = np.zeros(len(labels), bool)
    chosen[choose(labels, counts, stream(WEIGHTS, seed, 0, 1))] = True
    return chosen


def sweep(
    features: TrainVal, rates: tuple[float, ...], schedule: Schedule, device: torch.device
) -> dict:
    """Choose a rate on held-out training images, then train every rate on all of them and test it.

    Returns:
        evaluate.features.accuracies of the chosen rate, and {"lr": it, "held_out": {rate: top-1},
        "by_lr": {rate: top-1 on the test images}}, percent. Only the chosen rate's is a fair
        number.
    """

    def right(
        layers: list[nn.Linear], values: np.ndarray, labels: np.ndarray, rows: np.ndarray
    ) -> np.ndarray:
        parts = []
        for first in range(0, len(rows), BLOCK):
            some = rows[first : first + BLOCK]
            x, y = values[some], labels[some]
            parts.append(np.stack([hits(project(layer, x, device), y) for layer in layers]))
        return np.concatenate(parts, axis=1)

    held = hold_out(features.labels, schedule.seed)
    held_out = np.zeros(len(rates))
    if held.any():
        layers = fit_all(features, rates, schedule, device, np.flatnonzero(~held))
        on_held = right(layers, features.train, features.labels, np.flatnonzero(held))
        held_out = 100 * on_held[:, :, 0].mean(1)
    best = int(held_out.argmax())
    layers = fit_all(features, rates, schedule, device)
    tested = right(layers, features.val, features.truth, np.arange(len(features.val)))
    names = [f"{rate:g}" for rate in rates]
    return {
        **accuracies(tested[best], features.truth, features.classes),
        "lr": rates[best],
        "held_out": dict(zip(names, held_out.tolist(), strict=True)),
        "by_lr": dict(zip(names, (100 * tested[:, :, 0].mean(1)).tolist(), strict=True)),
    }
