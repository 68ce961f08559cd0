"""BatchNorm over a batch's own statistics, whose gradient is differentiated in closed form.

With x̂ = s (x − m), s = 1/√(variance + eps) and means ⟨·⟩ over the N values of a channel, the gradient is

    x̄ = w s (ȳ − ⟨ȳ⟩ − x̂ ⟨ȳ x̂⟩),   w̄ = Σ ȳ x̂,   b̄ = Σ ȳ

and for cotangents (a, c, d) of (x̄, w̄, b̄) its own is, with q = c − w s ⟨a x̂⟩ and p = q ȳ − w s ⟨ȳ x̂⟩ a,

    of ȳ:  w s (a − ⟨a⟩) + q x̂ + d
    of w:  r = s Σ a (ȳ − ⟨ȳ⟩ − x̂ ⟨ȳ x̂⟩)
    of x:  s (p − ⟨p⟩ − x̂ ⟨p x̂⟩) − x̂ w s r / N
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from auditor.sam.memory_format import alike

_aten = torch.ops.aten


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm`; in training mode with weight and bias its double backward is the cheap one."""
    if not training or weight is None or bias is None:
        return functional.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    found: Tensor = _BatchNorm.apply(input, weight, bias, running_mean, running_var, momentum, eps)
    return found


class _BatchNorm(Function):
    @staticmethod
    def forward(
        context: Any,
        values: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        found, mean, scale = torch.native_batch_norm(
            values, weight, bias, running_mean, running_var, True, momentum, eps
        )
        context.save_for_backward(values, weight, mean, scale)
        context.eps = eps
        return found

    @staticmethod
    def backward(context: Any, *cotangents: Tensor) -> Any:
        gradients = _BatchNormGradient.apply(*cotangents, *context.saved_tensors, context.eps)
        return *gradients, None, None, None, None


class _BatchNormGradient(Function):
    @staticmethod
    def forward(
        context: Any, toward: Tensor, values: Tensor, weight: Tensor, mean: Tensor, scale: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        toward = alike(toward, values)
        of_values, of_weight, of_bias = _gradient(toward, values, weight, mean, scale, eps)
        context.save_for_backward(toward, values, weight, mean, scale, of_weight, of_bias)
        context.eps = eps
        return of_values, of_weight, of_bias

    @staticmethod
    @once_differentiable
    def backward(context: Any, *cotangents: Tensor) -> Any:
        toward, values, weight, mean, scale, toward_normed, toward_sum = context.saved_tensors
        a, c, d = alike(cotangents[0], values), *cotangents[1:]
        count = values.numel() // values.shape[1]
        # Σ a x̂ and Σ a: the kernel of the gradient forms them in one pass, its first output left out.
        _, a_normed, a_sum = _gradient(a, values, weight, mean, scale, context.eps, of_values=False)
        product = _inner(a, toward)
        of_weight = scale * (product - (a_sum * toward_sum + a_normed * toward_normed) / count)

        gain = weight * scale
        q = c - gain * a_normed / count
        of_toward = _combination(d - gain * a_sum / count - q * scale * mean, (gain, a), (q * scale, values))

        on_a = -gain * toward_normed / count  # p = on_a · a + q · ȳ
        p_mean = (on_a * a_sum + q * toward_sum) / count
        p_normed = (on_a * a_normed + q * toward_normed) / count
        on_normed = -scale * (p_normed + weight * of_weight / count)
        of_values = _combination(
            -scale * (p_mean + on_normed * mean), (scale * on_a, a), (scale * q, toward), (scale * on_normed, values)
        )
        return of_toward, of_values, of_weight, None, None, None


def _gradient(
    toward: Tensor,
    values: Tensor,
    weight: Tensor,
    mean: Tensor,
    scale: Tensor,
    eps: float,
    of_values: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    found: tuple[Tensor, Tensor, Tensor] = _aten.native_batch_norm_backward(
        toward, values, weight, None, None, mean, scale, True, eps, [of_values, True, True]
    )
    return found


def _inner(one: Tensor, other: Tensor) -> Tensor:
    """Sum of products in each channel, [channels]."""
    if one.is_contiguous():
        shape = (one.shape[0], one.shape[1], -1)
        each: Tensor = torch.linalg.vecdot(one.view(shape), other.reshape(shape))
        return each.sum(0)
    found: Tensor = (one * other).sum([axis for axis in range(one.dim()) if axis != 1])
    return found


def _combination(constant: Tensor, first: tuple[Tensor, Tensor], *others: tuple[Tensor, Tensor]) -> Tensor:
    """Constant + Σ factor · values, constant and factors [channels], in one pass a term."""
    shape = (-1, *(1 for _ in first[1].shape[2:]))
    total = torch.addcmul(constant.view(shape), first[0].view(shape), first[1])
    for factor, values in others:
        total.addcmul_(factor.view(shape), values)
    return total
