"""What methods share: heads that take the place of a backbone's `fc`, the logits' loss, the extra
negative of `swap`, and the step of a slow copy."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.cli import UsageError
from train.config import MethodSettings, Positive

Result = tuple[Tensor, Tensor]  # a loss and an accuracy
Maybe = Tensor | None


@dataclass(frozen=True)
class HeadSettings(MethodSettings):
    """Of a method whose head may have one layer or two."""

    temperature: Positive = 0.2
    """Softmax temperature (T)."""
    head: Literal["mlp", "linear"] = "mlp"
    """Projection head: two layers, or one (MoCo v1, InstDisc)."""

    def check(self) -> None:
        if self.head == "linear" and self.head_norm:
            raise UsageError(
                "--head-norm needs --head mlp: a linear head has no place for BatchNorm"
            )

    def projection(self, features: int) -> nn.Module:
        """The head of a backbone of so many features."""
        if self.head == "linear":
            return nn.Linear(features, self.dim)
        return mlp(features, features, self.dim, self.head_norm)


def mlp(
    features: int,
    hidden: int,
    dim: int,
    norm: bool,
    last_bias: bool = True,
    first_bias: bool = True,
) -> nn.Sequential:
    """Two layers, BatchNorm between them where `norm`: MoCo v2's head with biases; without the last
    one BYOL's projector and predictor (Grill et al. 2020, section 3.3)."""
    first = nn.Linear(features, hidden, bias=first_bias)
    between = [nn.BatchNorm1d(hidden)] if norm else []
    last = nn.Linear(hidden, dim, bias=last_bias)
    return nn.Sequential(first, *between, nn.ReLU(inplace=True), last)


def classify(logits: Tensor, target: Tensor) -> Result:
    """The mean cross entropy, and the share of rows whose largest logit is their target's."""
    return F.cross_entropy(logits, target), (logits.argmax(1) == target).float().mean()


def own_negative(query: Tensor, negative: Tensor, counts: Maybe) -> Tensor:
    """(B, 1) similarities of queries to swap's own negative of each; the lowest number there is
    where it does not count.

    Args:
        query, negative: (B, D), unit length.  counts: (B,) bool, or None: all.
    """
    similarity = (query * negative).sum(1, keepdim=True)
    if counts is None:
        return similarity
    # not -inf, whose gradient a product with 0 turns into nan; 2^20 is room for the division by T
    return torch.where(counts[:, None], similarity, torch.finfo(similarity.dtype).min / 2**20)


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, share: float) -> None:
    """Move each parameter of a slow copy by `share` of the way to its original's."""
    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), share)
