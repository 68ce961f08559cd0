"""GELU, whose gradient x̄ = ȳ φ'(x) is differentiated in closed form: φ''(x) = (2 − x²) exp(−x²/2) / √(2π)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from auditor.sam.memory_format import alike

_aten = torch.ops.aten


def gelu(input: Tensor, *, approximate: str = "none") -> Tensor:
    """`torch.nn.functional.gelu`; the exact form's double backward is the cheap one."""
    if approximate != "none":
        return functional.gelu(input, approximate=approximate)
    found: Tensor = _Gelu.apply(input)
    return found


class _Gelu(Function):
    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        context.save_for_backward(values)
        return functional.gelu(values)

    @staticmethod
    def backward(context: Any, *cotangents: Tensor) -> Any:
        return _GeluGradient.apply(*cotangents, *context.saved_tensors)


class _GeluGradient(Function):
    @staticmethod
    def forward(context: Any, toward: Tensor, values: Tensor) -> Tensor:
        toward = alike(toward, values)
        context.save_for_backward(toward, values)
        found: Tensor = _aten.gelu_backward(toward, values)
        return found

    @staticmethod
    @once_differentiable
    def backward(context: Any, *cotangents: Tensor) -> Any:
        toward, values = context.saved_tensors
        a = alike(cotangents[0], values)
        square = values * values
        density = (square * -0.5).exp_()
        curved = square.sub_(2.0).mul_(density).mul_(-1.0 / math.sqrt(2.0 * math.pi)).mul_(a).mul_(toward)
        return _aten.gelu_backward(a, values), curved
