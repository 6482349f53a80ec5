"""Several processes as one: who am I, and a batch's tensors from all of them. Without torchrun, all of it is local."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable


def world() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, 0 .. world() - 1; 0 writes the files."""
    return dist.get_rank() if world() > 1 else 0


@torch.no_grad()
def gather(local: torch.Tensor) -> torch.Tensor:
    """(B, ...) of this process to (world * B, ...) of all, in the order of ranks, without gradients.

    The global batch is cut into ranks' parts in order (train/loader.py), so the result is in the global batch's order.
    """
    if world() == 1:
        return local
    parts = [torch.empty_like(local, memory_format=torch.contiguous_format) for _ in range(world())]
    dist.all_gather(parts, local.contiguous())
    return torch.cat(parts)


def gather_with_gradient(local: torch.Tensor) -> torch.Tensor:
    """As gather; gradients flow back to every process's part."""
    return local if world() == 1 else torch.cat(differentiable.all_gather(local.contiguous()))


def mine(whole: torch.Tensor) -> torch.Tensor:
    """This process's part of a gathered batch: (world * B, ...) to (B, ...)."""
    return whole.chunk(world())[rank()]
