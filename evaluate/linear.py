"""Linear classification of frozen features: multinomial logistic regression, solved to its optimum by L-BFGS.

    python -m evaluate linear --run RUN --data DATA   # DATA/train/CLASS/... and DATA/val/CLASS/...

Features are those of one centre crop an image, taken once: a fast protocol, not MoCo's (SGD at lr 30 on random crops).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from evaluate.common import Common, describe, parse, publish
from evaluate.features import extract, load_encoder

L2, ITERATIONS = 1e-3, 200


@dataclass(frozen=True)
class Arguments(Common):
    """Options of the linear evaluation."""

    l2: float = L2
    """Weight of the squared norm of the classifier (on standardised features)."""


@dataclass(frozen=True)
class Probe:
    """A linear classifier on standardised features: mean, deviation (D,), weight (C, D), bias (C,)."""

    mean: torch.Tensor
    deviation: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    def scores(self, features: np.ndarray) -> np.ndarray:
        """(N, C) logits of (N, D) features."""
        x = (torch.from_numpy(features).double() - self.mean) / self.deviation
        return (x @ self.weight.T + self.bias).numpy()

    def accuracy(self, features: np.ndarray, labels: np.ndarray) -> float:
        """Top-1 in percent."""
        return 100 * float((self.scores(features).argmax(1) == labels).mean())


def fit_probe(features: np.ndarray, labels: np.ndarray, classes: int, l2: float = L2) -> Probe:
    """Minimise mean cross-entropy + l2/2 |W|^2 (convex: the result does not depend on a seed or a learning rate).

    Args:
        features: (N, D) float32.  labels: (N,) int in 0..classes-1.
    """
    x, y = torch.from_numpy(features).double(), torch.from_numpy(np.asarray(labels, np.int64))
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    x = (x - mean) / deviation
    weight = torch.zeros(classes, x.shape[1], dtype=torch.double, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.double, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, history_size=20, tolerance_grad=1e-6,
                               line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(x @ weight.T + bias, y) + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    return Probe(mean, deviation, weight.detach(), bias.detach())


def run(run: str, data: str, l2: float = L2, untrained: bool = False, device: str = "auto", workers: int = 0) -> dict:
    """Accuracy of a linear classifier trained on DATA/train, on DATA/val.

    Returns:
        the protocol's parameters, and `accuracy`: top-1 and top-5 in percent.
    """
    encoder = load_encoder(run, device, untrained)
    train, labels, classes = extract(encoder, os.path.join(data, "train"), workers=workers)
    test, truth, _ = extract(encoder, os.path.join(data, "val"), workers=workers, classes=classes)
    scores = fit_probe(train, labels, len(classes), l2).scores(test)
    ranked = np.argsort(-scores, axis=1)
    accuracy = {f"top-{n}": 100 * float((ranked[:, :n] == truth[:, None]).any(1).mean())
                for n in (1, 5) if n == 1 or n < len(classes)}
    protocol = {"features": "backbone, pooled, standardised", "crop": encoder.crop, "solver": "L-BFGS", "l2": l2,
                "train_images": len(train), "test_images": len(test), "classes": len(classes)}
    return {"evaluation": "linear", "run": run, "data": data, "untrained": untrained, "protocol": protocol,
            "accuracy": accuracy}


def main(argv: list[str]) -> None:
    args = parse(Arguments, argv, "linear", __doc__)
    result = run(args.run, args.data, args.l2, args.untrained, args.device, args.workers)
    print(f"linear probe ({describe(result['protocol'])})")
    for name, accuracy in result["accuracy"].items():
        print(f"  {name} {accuracy:6.2f} %")
    publish(result, args)
