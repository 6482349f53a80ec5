"""Several processes that evaluate together, under torchrun; without it, all of this is local."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

from data.cli import UsageError


def start(device: str) -> None:
    """Join the processes that torchrun started: NCCL between GPUs, gloo between CPUs. Nothing where
    there is one."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        return
    cuda = device != "cpu" and torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda and local >= torch.cuda.device_count():
        raise UsageError(
            f"process {local} has no GPU of its own: this machine has {torch.cuda.device_count()}; give "
            "torchrun that many processes, or --device cpu"
        )
    if cuda:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if cuda else "gloo")


def stop() -> None:
    """Leave the group that `start` joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number; 0 shows and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def barrier() -> None:
    if world() > 1:
        dist.barrier()


def total(values: torch.Tensor) -> torch.Tensor:
    """The sum over all processes."""
    if world() > 1:
        dist.all_reduce(values)
    return values


def any_of(flag: bool, device: torch.device) -> bool:
    """Whether it is true on any process."""
    return bool(total(torch.tensor(float(flag), device=device)) > 0) if world() > 1 else flag
