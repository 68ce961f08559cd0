"""BatchNorm whose batch is shared out over ranks: the statistics are those of all rows, as on one rank."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
"""The layers whose arithmetic is known; one that is derived from them may do more."""


class SharedBatchNorm(_BatchNorm):
    """A BatchNorm layer that sums over all ranks; torch's SyncBatchNorm does so on CUDA alone.

    Args:
        layer: Whose parameters, buffers and settings it takes over.
    """

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__(layer.num_features, layer.eps, layer.momentum, affine=False, track_running_stats=False)
        self.affine, self.track_running_stats = layer.affine, layer.track_running_stats
        self.weight, self.bias = layer.weight, layer.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            setattr(self, name, getattr(layer, name))

    def forward(self, input: Tensor) -> Tensor:
        """[rows of this rank, channels, ...] to the same, normalised with the mean and variance over all ranks' rows.

        The rows of all ranks count alike, however many each has.
        """
        # Sums over what one channel has.
        others = [axis for axis in range(input.dim()) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(input.dim())]
        sums = input.sum(dim=others)
        here = torch.full_like(sums, input.numel() // input.shape[1])
        # The mean before the squares: a difference of two sums of squares would cancel.
        total, count = _SumOverRanks.apply(torch.stack([sums, here]))
        count = count.detach()
        mean = total / count
        centred = input - mean.view(shape)
        variance = _SumOverRanks.apply(centred.square().sum(dim=others)) / count
        if self.running_mean is not None and self.running_var is not None:
            share = self._share_of_this_batch()
            self.running_mean.mul_(1.0 - share).add_(share * mean.detach())
            self.running_var.mul_(1.0 - share).add_(share * (variance * count / (count - 1)).detach())
        scaled: Tensor = centred * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            scaled = scaled * self.weight.view(shape)
        return scaled if self.bias is None else scaled + self.bias.view(shape)

    def _share_of_this_batch(self) -> float:
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return 1.0 / float(self.num_batches_tracked or 1) if self.momentum is None else self.momentum


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over ranks: whatever any rank makes of it, its gradient comes back to all."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        del ctx
        total = value.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total
