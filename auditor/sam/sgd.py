"""Stochastic gradient descent with momentum and coupled weight decay, `torch.optim.SGD`'s arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from auditor.sam.state import State


@dataclass(frozen=True)
class SGD:
    """Its numbers for one step."""

    learning_rate: float
    """η"""
    momentum: float
    """μ"""
    weight_decay: float
    """λ"""
    nesterov: bool = False


def sgd_step(state: State, gradient: Mapping[str, Tensor], settings: SGD) -> State:
    """U ← μ u + d + λ θ,   θ ← θ − η u      (Nesterov: θ ← θ − η (d + λ θ + μ u)).

    Args:
        state: θ and u.
        gradient: d, what stands for the gradient: the mean direction of all micro-batches of the step.
        settings: η, μ, λ and the form of momentum.

    Returns:
        The next state; buffers and memory as they are.
    """
    parameters, momentum = {}, {}
    for name, value in state.parameters.items():
        decayed = gradient[name] + settings.weight_decay * value
        moved = settings.momentum * state.momentum[name] + decayed
        direction = decayed + settings.momentum * moved if settings.nesterov else moved
        momentum[name] = moved
        parameters[name] = value - settings.learning_rate * direction
    return replace(state, parameters=parameters, momentum=momentum)
