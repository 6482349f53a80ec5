"""BatchNorm over several processes: the same groups of the global batch as one process has."""

from __future__ import annotations

import torch
import torch.distributed.nn.functional as differentiable
import torch.nn.functional as F
from torch import Tensor, nn

from data.cli import UsageError
from train.distributed import total, world
from train.network import SplitBatchNorm2d


def spread_batch_norm(method: nn.Module, splits: int, device: torch.device) -> nn.Module:
    """Give a method's BatchNorms the same groups of the global batch that one process would have.

    `splits` groups on one process (SplitBatchNorm2d) are `splits / world` on each of several; one
    group, the whole batch, becomes synchronised BatchNorm. A run is therefore the same on any
    number of processes that divides.

    Raises:
        UsageError: more processes than groups, or groups that do not divide among them.
    """
    if world() == 1:
        return method
    if splits > 1 and splits % world():
        raise UsageError(
            f"--splits {splits} BatchNorm groups do not divide among {world()} processes; use a "
            f"multiple of {world()}, or 1 for statistics of the whole batch (SyncBN)"
        )
    for module in method.modules():
        if isinstance(module, SplitBatchNorm2d):
            module.splits = splits // world()
    return _synchronised(method, device)


def _synchronised(module: nn.Module, device: torch.device) -> nn.Module:
    """Every plain BatchNorm replaced by one with the statistics of all processes; torch's own has
    no CPU version."""
    if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
        if device.type == "cuda":
            return nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return GlooBatchNorm.of(module)
    for name, child in module.named_children():
        setattr(module, name, _synchronised(child, device))
    return module


@torch.no_grad()
def average_statistics(method: nn.Module) -> None:
    """Running statistics become the mean over all processes', which is what one process would have;
    every process calls it. Training does not use them, evaluations do."""
    if world() > 1:
        for module in method.modules():
            if isinstance(module, SplitBatchNorm2d):  # the others' are synchronised already
                for statistic in (module.running_mean, module.running_var):
                    total(statistic).div_(world())


class GlooBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the batches of all processes, of (B, C, ...), for CPUs
    (torch.nn.SyncBatchNorm wants a GPU)."""

    @classmethod
    def of(cls, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> GlooBatchNorm:
        """With the parameters and statistics of a plain BatchNorm."""
        new = cls(norm.num_features, norm.eps, norm.momentum)
        new.weight, new.bias = norm.weight, norm.bias
        new.running_mean, new.running_var = norm.running_mean, norm.running_var
        new.num_batches_tracked = norm.num_batches_tracked
        return new.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            statistics = self.running_mean, self.running_var
            return F.batch_norm(x, *statistics, self.weight, self.bias, eps=self.eps)
        dims, shape = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)
        # counted, not multiplied: a detector's processes have images and regions of their own sizes
        count = total(torch.tensor(x.numel() // x.shape[1], dtype=torch.double)).item()
        average = _sum(x.sum(dims)) / count
        centred = x - average.view(shape)
        variance = _sum(centred.square().sum(dims)) / count
        with torch.no_grad():
            self.running_mean.lerp_(average, self.momentum)
            self.running_var.lerp_(variance * count / max(1, count - 1), self.momentum)
            self.num_batches_tracked += 1
        scaled = centred * (variance + self.eps).rsqrt().view(shape) * self.weight.view(shape)
        return scaled + self.bias.view(shape)


def _sum(x: Tensor) -> Tensor:
    return differentiable.all_reduce(x) if torch.is_grad_enabled() else total(x)
