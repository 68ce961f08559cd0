from __future__ import annotations

import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from auditor.influence.double_backward.gelu import gelu

VALUES = torch.linspace(-6, 6, 25, dtype=torch.float64).requires_grad_()


def test_both_derivatives_equal_finite_differences():
    assert gradcheck(gelu, VALUES)
    assert gradgradcheck(gelu, VALUES)


def test_values_are_torchs_own_and_the_tanh_form_is_left_to_it():
    assert torch.equal(gelu(VALUES), functional.gelu(VALUES))
    assert torch.equal(gelu(VALUES, approximate="tanh"), functional.gelu(VALUES, approximate="tanh"))


def test_a_gradient_that_lies_otherwise_in_memory_changes_nothing_but_where_the_result_lies():
    generator = torch.Generator().manual_seed(0)
    values, toward, along = (torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    results = []
    for form in (torch.contiguous_format, torch.channels_last):
        leaf = values.contiguous(memory_format=form).requires_grad_()
        pulled = toward.clone().requires_grad_()
        (first,) = torch.autograd.grad(gelu(leaf), leaf, pulled, create_graph=True)
        results.append([first.detach(), *torch.autograd.grad(first, [leaf, pulled], along)])
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
    assert all(found.is_contiguous(memory_format=torch.channels_last) for found in results[1][:2])
