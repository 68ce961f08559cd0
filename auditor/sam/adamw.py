"""AdamW (Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization"), `torch.optim.AdamW`'s arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from auditor.sam.perturbation import Tensors
from auditor.sam.state import State


@dataclass(frozen=True)
class AdamW:
    """Its numbers for one step."""

    learning_rate: float
    """η"""
    step: int
    """t, counted from 0."""
    beta1: float = 0.9
    """β₁, decay of the first moment m."""
    beta2: float = 0.999
    """β₂, decay of the second moment v."""
    epsilon: float = 1e-8
    """ε, added to the root of the second moment."""
    weight_decay: float = 0.01
    """λ, decoupled from the gradient."""


def adamw_step(state: State, gradient: Mapping[str, Tensor], settings: AdamW) -> State:
    """One step.

        m ← β₁ m + (1 − β₁) d,   v ← β₂ v + (1 − β₂) d²
        θ ← (1 − η λ) θ − η (m / (1 − β₁ᵗ⁺¹)) / (√(v / (1 − β₂ᵗ⁺¹)) + ε)

    It is differentiable in all of θ, m, v and d; where v is zero its root counts as a constant, for its slope there
    has no bound.

    Args:
        state: θ, m and v.
        gradient: d, the mean direction of all micro-batches of the step.
        settings: t, η, β₁, β₂, ε and λ.

    Returns:
        The next state; buffers and memory as they are.
    """
    parameters, first, second = {}, {}, {}
    unbiased = 1.0 - settings.beta1 ** (settings.step + 1)
    for name, value in state.parameters.items():
        first[name] = settings.beta1 * state.momentum[name] + (1.0 - settings.beta1) * gradient[name]
        second[name] = settings.beta2 * state.second[name] + (1.0 - settings.beta2) * gradient[name].square()
        direction = first[name] / unbiased / denominator(second[name], settings)
        parameters[name] = value * (1.0 - settings.learning_rate * settings.weight_decay)
        parameters[name] = parameters[name] - settings.learning_rate * direction
    return replace(state, parameters=parameters, momentum=first, second=second)


def denominator(second: Tensor, settings: AdamW) -> Tensor:
    """√(v / (1 − β₂ᵗ⁺¹)) + ε, v being the second moment after step t."""
    above = second > 0
    root = torch.where(above, torch.where(above, second, 1.0).sqrt(), 0.0)
    scale: float = (1.0 - settings.beta2 ** (settings.step + 1)) ** 0.5
    return root / scale + settings.epsilon


def preconditioner(second: Mapping[str, Tensor], settings: AdamW) -> Tensors:
    """1 / (√(v / (1 − β₂ᵗ⁺¹)) + ε): what a step scales each entry of the first moment by.

    Args:
        second: v after step t.
        settings: t, β₂ and ε.

    Returns:
        Of the parameters' names and shapes.
    """
    return {name: 1.0 / denominator(value, settings) for name, value in second.items()}


def direction_between(before: State, after: State, settings: AdamW) -> Tensors:
    """D of the step from one state to the next, to rounding: what the first moment has taken up.

    Args:
        before: The state before the step.
        after: The state after it.
        settings: Its numbers.

    Returns:
        Of the parameters' names and shapes.
    """
    return {
        name: (value - settings.beta1 * before.momentum[name]) / (1.0 - settings.beta1)
        for name, value in after.momentum.items()
    }
