"""Two-dimensional convolution y = W ∗ x, whose gradient is differentiated with the kernels of the gradient itself.

The gradient (x̄, W̄) is linear in ȳ, x and W. For cotangents (a, C, d) of (x̄, W̄, b̄) its own is

    of ȳ:  W ∗ a + C ∗ x + d
    of x:  the gradient's x̄ with C in place of W
    of W:  the gradient's W̄ with a in place of x

where torch forms the last as a convolution whose kernel is as large as the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

_aten = torch.ops.aten
_Layout = tuple[list[int], list[int], list[int], int]
"""Stride, padding, dilation and groups."""


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d`; of batches with padding in numbers its double backward is the cheap one."""
    if isinstance(padding, str) or input.dim() != 4:
        return functional.conv2d(input, weight, bias, stride, padding, dilation, groups)
    found: Tensor = _Conv.apply(input, weight, bias, (_pair(stride), _pair(padding), _pair(dilation), groups))
    return found


class _Conv(Function):
    @staticmethod
    def forward(context: Any, values: Tensor, weight: Tensor, bias: Tensor | None, layout: _Layout) -> Tensor:
        context.save_for_backward(values, weight)
        context.has_bias, context.layout = bias is not None, layout
        return _convolve(values, weight, bias, layout)

    @staticmethod
    def backward(context: Any, *cotangents: Tensor) -> Any:
        wanted = [context.needs_input_grad[0], True, context.has_bias]
        return *_ConvGradient.apply(*cotangents, *context.saved_tensors, context.layout, wanted), None


class _ConvGradient(Function):
    @staticmethod
    def forward(
        context: Any, toward: Tensor, values: Tensor, weight: Tensor, layout: _Layout, wanted: list[bool]
    ) -> tuple[Tensor | None, Tensor, Tensor | None]:
        context.save_for_backward(toward, values, weight)
        context.layout = layout
        return _gradient(toward, values, weight, layout, wanted)

    @staticmethod
    @once_differentiable
    def backward(context: Any, *cotangents: Tensor | None) -> Any:
        toward, values, weight = context.saved_tensors
        a, c, d = cotangents
        layout = context.layout
        of_values = of_weight = None
        of_toward = _convolve(values, c, d, layout)
        if a is not None:  # None for images, which have no gradient
            of_toward += _convolve(a, weight, None, layout)
            of_weight = _gradient(toward, a, weight, layout, [False, True, False])[1]
        if context.needs_input_grad[1]:
            of_values = _gradient(toward, values, c, layout, [True, False, False])[0]
        return of_toward, of_values, of_weight, None, None


def _convolve(values: Tensor, weight: Tensor | None, bias: Tensor | None, layout: _Layout) -> Tensor:
    stride, padding, dilation, groups = layout
    found: Tensor = _aten.convolution(values, weight, bias, stride, padding, dilation, False, [0, 0], groups)
    return found


def _gradient(
    toward: Tensor, values: Tensor, weight: Tensor | None, layout: _Layout, wanted: list[bool]
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    stride, padding, dilation, groups = layout
    found: tuple[Tensor | None, Tensor, Tensor | None] = _aten.convolution_backward(
        toward, values, weight, [toward.shape[1]], stride, padding, dilation, False, [0, 0], groups, wanted
    )
    return found


def _pair(value: int | Sequence[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value) * (2 // len(value))
