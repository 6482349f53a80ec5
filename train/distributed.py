"""Several processes as one: ranks, flags, and a batch's tensors from all of them. Without torchrun,
all of it is local."""

import os
import warnings
from multiprocessing.pool import ThreadPool

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
from torch import Tensor

from data.cli import UsageError

# torch's deprecation of those names recommends a private module
warnings.filterwarnings("ignore", r"torch\.distributed\.nn\.functional\.", FutureWarning)

ADVICE = "start with python -m train.launch (torchrun), or unset WORLD_SIZE for one process"


def start(device: str) -> torch.device:
    """Join the other processes where torchrun started this one, and choose its device.

    Args:
        device: cuda, cpu, cuda:N, or auto (cuda where there is one). Under torchrun, cuda is the
            local rank's own.

    Raises:
        UsageError: the named device is not there, or the others cannot be joined.
    """
    chosen = choose_device(device)
    if "WORLD_SIZE" not in os.environ:
        return chosen
    needed = ("RANK", "MASTER_ADDR", "MASTER_PORT", *["LOCAL_RANK"] * (chosen.type == "cuda"))
    if missing := [name for name in needed if name not in os.environ]:
        raise UsageError(f"WORLD_SIZE is set without {', '.join(missing)}; {ADVICE}")
    try:
        return _join(chosen)
    except UsageError:
        raise
    except (ValueError, RuntimeError) as error:  # not a number, a port in use, nobody there
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"the other processes cannot be joined: {reason}; {ADVICE}") from None


def _join(chosen: torch.device) -> torch.device:
    if chosen.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"process {local} of this machine has no GPU of its own (there are "
                f"{torch.cuda.device_count()}); lower torchrun's --nproc-per-node"
            )
        chosen = torch.device("cuda", local)
        torch.cuda.set_device(chosen)
    if not dist.is_initialized():
        # flags of a few bytes go by gloo, so that whether a process was stopped is known without
        # waiting for the GPU
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        # in a thread: the main one hears signals while the others are waited for
        with ThreadPool(1) as pool:
            pool.apply(dist.init_process_group, (backend,))
    return chosen


def choose_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is one. UsageError where the named device is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cuda", "cpu"):
            raise RuntimeError(device.type)  # mps, xpu ...: nothing here was tried on one
    except RuntimeError:
        raise UsageError(f"--device {name}: must be cuda, cpu or auto") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: no CUDA device on this machine; use --device cpu")
    return device


def stop() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, 0 .. world() - 1; 0 writes the files."""
    return dist.get_rank() if world() > 1 else 0


def say(text: str) -> None:
    """Print a line, on the process that writes."""
    if rank() == 0:
        print(text)


def barrier() -> None:
    """Wait until every process is here."""
    if world() > 1:
        dist.all_reduce(torch.zeros(1))


def any_rank(flag: bool | int) -> int:
    """The largest of all processes' flags, 0 where none is set."""
    if world() == 1:
        return int(flag)
    flags = torch.tensor([int(flag)])
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return flags.item()


def first_text(text: str) -> str:
    """Of all processes' texts the first that is not empty; the same on every process."""
    if world() == 1:
        return text
    texts = [""] * world()
    dist.all_gather_object(texts, text)
    return next(filter(None, texts), "")


@torch.no_grad()
def total(values: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if world() > 1:
        dist.all_reduce(values)
    return values


def mean(value: Tensor) -> Tensor:
    """The mean of a scalar over processes, float32 on the CPU."""
    return total(value.detach().float().cpu()) / world()


@torch.no_grad()
def gather(local: Tensor) -> Tensor:
    """(B, ...) of this process to (world * B, ...) of all, in the order of ranks, without
    gradients.

    The global batch is cut into ranks' parts in order (train/loader.py), so the result is in the
    global batch's order.
    """
    if world() == 1:
        return local
    local = local.contiguous()
    parts = [torch.empty_like(local) for _ in range(world())]
    dist.all_gather(parts, local)
    return torch.cat(parts)


def gather_with_gradient(local: Tensor) -> Tensor:
    """As gather; gradients flow back to every process's part."""
    return local if world() == 1 else torch.cat(differentiable.all_gather(local.contiguous()))


def local_part(whole: Tensor) -> Tensor:
    """This process's part of a gathered batch: (world * B, ...) to (B, ...)."""
    return whole.chunk(world())[rank()]
