from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from auditor.influence.double_backward.convolution import conv2d

F64 = torch.float64


def leaves(groups=1, bias=True):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 4, 5, 4), (6, 4 // groups, 3, 2), (6,)
    values, weight, offset = (
        torch.randn(shape, generator=generator, dtype=F64, requires_grad=True) for shape in shapes
    )
    return values, weight, offset if bias else None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"padding": 1},
        {"stride": 2, "padding": (1, 0)},
        {"dilation": 2, "padding": 2},
        {"groups": 2},
        {"stride": (2,)},
    ],
)
def test_both_derivatives_equal_finite_differences(layout, bias):
    given = leaves(layout.get("groups", 1), bias)
    convolve = partial(conv2d, **layout)
    torch.testing.assert_close(convolve(*given), functional.conv2d(*given, **layout), rtol=0, atol=0)
    assert gradcheck(convolve, given)
    assert gradgradcheck(convolve, given)


def test_images_need_no_gradient_of_their_own():
    values, weight, offset = leaves()
    assert gradgradcheck(lambda weight, offset: conv2d(values.detach(), weight, offset).pow(2), (weight, offset))


def test_padding_by_name_and_single_images_are_left_to_torch():
    values, weight, offset = leaves()
    assert torch.equal(
        conv2d(values, weight, offset, padding="valid"), functional.conv2d(values, weight, offset, padding="valid")
    )
    assert torch.equal(conv2d(values[0], weight, offset), functional.conv2d(values[0], weight, offset))
