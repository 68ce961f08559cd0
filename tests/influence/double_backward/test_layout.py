from __future__ import annotations

import pytest
import torch

from auditor.influence.double_backward.layout import alike

INNERMOST = torch.channels_last


@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (4, 3), (4, 3, 5)])
@pytest.mark.parametrize("innermost", [False, True])
def test_values_stay_and_lie_in_memory_as_the_others_do(shape, innermost):
    values = torch.arange(torch.Size(shape).numel()).float().view(shape)
    like = torch.zeros(shape)
    if innermost and len(shape) == 4:
        like = like.contiguous(memory_format=INNERMOST)
    for given in (values, values.transpose(0, 1).contiguous().transpose(0, 1)):
        found = alike(given, like)
        assert torch.equal(found, values)
        assert found.stride() == like.stride()
    assert alike(found, like) is found
