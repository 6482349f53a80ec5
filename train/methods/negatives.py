"""The extra negative of `swap`: one for each query, and not for all of them."""

from __future__ import annotations

import torch


def own_negative(
    query: torch.Tensor, negative: torch.Tensor, counts: torch.Tensor | None
) -> torch.Tensor:
    """(B, 1) similarities of queries to their own negatives; the lowest number there is where it
    does not count.

    Args:
        query, negative: (B, D), unit length.  counts: (B,) bool, or None: all.
    """
    similarity = (query * negative).sum(1, keepdim=True)
    if counts is None:
        return similarity
    # not -inf, whose gradient a product with 0 turns into nan; 2^20 is room for the division by T
    return torch.where(counts[:, None], similarity, torch.finfo(similarity.dtype).min / 2**20)
