from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn

from auditor.sam.batch_norm import SharedBatchNorm
from tests.distributed.builders import in_processes

F64 = torch.float64
LAYERS = {
    "images": (nn.BatchNorm2d(3), (5, 3, 4, 4)),
    "features": (nn.BatchNorm1d(3, eps=0.1), (5, 3)),
    "counted": (nn.BatchNorm2d(3, momentum=None), (5, 3, 2, 2)),
    "bare": (nn.BatchNorm2d(3, affine=False, track_running_stats=False), (5, 3, 2, 2)),
}


def _compare(rank, kind):
    layer, shape = LAYERS[kind]
    plain = copy.deepcopy(layer).to(F64)
    shared = SharedBatchNorm(copy.deepcopy(plain))
    generator = torch.Generator().manual_seed(0)
    mine = slice(0, 2) if rank == 0 else slice(2, None)  # two rows and three
    for _ in range(2):
        # Far from zero, where a difference of sums of squares would lose its digits.
        whole = (1e6 + torch.randn(shape, generator=generator, dtype=F64)).requires_grad_()
        part = whole.detach()[mine].requires_grad_()
        outputs, wanted = shared(part), plain(whole)
        torch.testing.assert_close(outputs, wanted[mine], rtol=1e-7, atol=1e-7)
        cotangent = torch.randn(shape, generator=generator, dtype=F64)
        (outputs * cotangent[mine]).sum().backward()
        (wanted * cotangent).sum().backward()
        torch.testing.assert_close(part.grad, whole.grad[mine], rtol=1e-7, atol=1e-7)
    assert shared.state_dict().keys() == plain.state_dict().keys()
    for name, value in plain.named_buffers():
        torch.testing.assert_close(getattr(shared, name), value, rtol=1e-9, atol=0)
    for name, value in plain.named_parameters():
        summed = getattr(shared, name).grad.clone()
        dist.all_reduce(summed)
        torch.testing.assert_close(summed, value.grad, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("kind", list(LAYERS))
def test_rows_on_two_ranks_are_normalised_as_one_batch_in_both_directions(kind):
    in_processes(_compare, 2, kind)
