from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from auditor.influence.double_backward.batch_norm import batch_norm

F64 = torch.float64


def leaves(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator, dtype=F64, requires_grad=True)
    weight = (torch.rand(shape[1], generator=generator, dtype=F64) + 0.5).requires_grad_()
    bias = torch.randn(shape[1], generator=generator, dtype=F64, requires_grad=True)
    return values, weight, bias


def trained(values, weight, bias, eps=1e-2):
    return batch_norm(values, None, None, weight, bias, True, 0.1, eps)


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (4, 3, 2, 2), (3, 2, 2, 2, 2)])
def test_both_derivatives_equal_finite_differences(shape):
    assert gradcheck(trained, leaves(shape))
    assert gradgradcheck(trained, leaves(shape))


def test_values_and_running_statistics_are_torchs_own():
    values, weight, bias = leaves((4, 3, 2, 2))
    own, torchs = ([torch.zeros(3, dtype=F64), torch.ones(3, dtype=F64)] for _ in range(2))
    found = batch_norm(values, *own, weight, bias, True, 0.3, 1e-5)
    expected = functional.batch_norm(values, *torchs, weight, bias, True, 0.3, 1e-5)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(own, torchs, rtol=0, atol=0)


@pytest.mark.parametrize("affine", [True, False])
def test_evaluation_mode_and_layers_without_weights_are_left_to_torch(affine):
    values, weight, bias = leaves((4, 3, 2, 2))
    running = torch.zeros(3, dtype=F64), torch.ones(3, dtype=F64)
    given = (*running, weight, bias, False) if affine else (*running, None, None, True)
    assert torch.equal(batch_norm(values, *given), functional.batch_norm(values, *given))


def test_inputs_without_gradient_and_channels_last_change_nothing():
    values, weight, bias = leaves((4, 3, 2, 2))
    strided = values.detach().to(memory_format=torch.channels_last).requires_grad_()
    results = []
    for given in (values, strided):
        first = torch.autograd.grad(trained(given, weight, bias).pow(3).sum(), [given, weight], create_graph=True)
        results.append(torch.autograd.grad(sum(value.sin().sum() for value in first), [given, weight, bias]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)
    assert gradgradcheck(lambda weight, bias: trained(values.detach(), weight, bias), (weight, bias))
