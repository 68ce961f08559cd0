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
