"""Gauges of collapse that need no labels: how many dimensions the embeddings of a batch fill."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.distributed import gather


def rankme(embeddings: Tensor) -> float:
    """The effective rank: exp of the entropy of the singular values (Garrido et al., ICML 2023).

    Args:
        embeddings: (N, D).

    Returns:
        from 1, all on one line, to min(N, D).
    """
    values = torch.linalg.svdvals(embeddings.double())
    shares = values / values.sum().clamp(min=1e-12) + 1e-7  # the paper's epsilon
    return (-(shares * shares.log()).sum()).exp().item()


def deviation(embeddings: Tensor) -> float:
    """The mean over dimensions of the standard deviation of unit-length embeddings: 0 where all are
    alike, about 1 / sqrt(D) where they fill the sphere."""
    return F.normalize(embeddings.float(), dim=1).std(0).mean().item()


@torch.no_grad()
def gauges(encoder: nn.Module, views: Tensor) -> dict[str, float]:
    """Both, of the views of all processes; leaves the encoder as it was."""
    training = encoder.training
    encoder.eval()
    embeddings = gather(encoder(views).float()).nan_to_num()
    encoder.train(training)
    return {"rankme": rankme(embeddings), "deviation": deviation(embeddings)}
