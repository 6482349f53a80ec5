"""What the network is trained on: trusted pixels of its labels, whole shapes, and agreement across scales."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def label_loss(logits: Tensor, label: Tensor, trust: Tensor) -> Tensor:
    """Cross-entropy and soft intersection over union (as BASNet's, Qin et al., CVPR 2019) with a label's nearer side.

    Args:
        logits: (B, S, S).  label: (B, S, S) in [0, 1]: a pixel weighs |2 label - 1|, so that one on which the cuts, or
            the rounds, are divided teaches nothing.  trust: (B,) in [0, 1], the image's weight.
    """
    target = (label >= 0.5).to(logits.dtype)
    weight = (2 * label - 1).abs() * trust[:, None, None]
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    entropy = (weight * entropy).sum() / weight.sum().clamp_min(1e-6)
    p = torch.sigmoid(logits)
    both = (weight * p * target).sum((1, 2))
    either = (weight * (p + target - p * target)).sum((1, 2))
    shape = 1 - both / either.clamp_min(1e-6)
    return entropy + (trust * shape).sum() / trust.sum().clamp_min(1e-6)


def consistency(logits: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the network's map from the moving average's map of the same image at another scale.

    Args:
        logits: (B, S, S).  teacher: (B, T, T) in [0, 1], resized to S.
    """
    size = logits.shape[1:]
    wanted = F.interpolate(teacher[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    return F.mse_loss(torch.sigmoid(logits), wanted)
