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

from data.cli import UsageError
from evaluate.features import TrainVal, accuracies, hits, project
from evaluate.probes.sgd import Order, Schedule
from train.streams import WEIGHTS, stream

HELD_OUT = 0.1  # share of every class's training images that choose the rate


def fit_all(
    features: TrainVal,
    rates: tuple[float, ...],
    schedule: Schedule,
    device: torch.device,
    rows: np.ndarray,
) -> list[nn.Linear]:
    """One classifier a rate by SGD with `schedule`, all on the same batches.

    Args:
        rows: of the training features to train on.

    Returns:
        their layers on `device`; not finite where a rate diverged.
    """
    train, labels = features.train, torch.from_numpy(features.labels)
    classes = len(features.classes)
    layers = [schedule.layer(train.shape[1], classes).to(device) for _ in rates]
    optimizer = schedule.optimizer(*layers)
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

    Raises:
        UsageError: every rate diverges.
    """

    def right(rows: np.ndarray, values: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Of the classifiers that are trained on some rows: hits on values with these labels."""
        layers = fit_all(features, rates, schedule, device, rows)
        return np.stack([hits(project(layer, values, device), labels) for layer in layers])

    held = hold_out(features.labels, schedule.seed)
    held_out = np.zeros(len(rates))
    if held.any():
        on_held = right(np.flatnonzero(~held), features.train[held], features.labels[held])
        held_out = 100 * on_held[:, :, 0].mean(1)
    best = int(held_out.argmax())
    tested = right(np.arange(len(held)), features.val, features.truth)
    if not tested.any():  # not even by chance: scores that are not finite are never right
        raise UsageError("--sweep-lr: every rate diverges on these features; give lower ones")
    names = [f"{rate:g}" for rate in rates]
    return {
        **accuracies(tested[best], features.truth, features.classes),
        "lr": rates[best],
        "held_out": dict(zip(names, held_out.tolist(), strict=True)),
        "by_lr": dict(zip(names, (100 * tested[:, :, 0].mean(1)).tolist(), strict=True)),
    }
