"""What a variant of SAM is: pure functions of one micro-batch, and what it keeps from step to step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

Tensors = dict[str, Tensor]
"""Named tensors: parameters, gradients, perturbations or buffers of one network."""


@dataclass(frozen=True)
class Past:
    """What a variant is given beside parameters and gradients."""

    memory: Mapping[str, Tensor]
    """What the steps before have left; empty for a variant that keeps nothing."""
    seed: int = 0
    """Of the micro-batch, for a variant that draws."""


Function = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Past], Tensors]


Weighing = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(weights, losses where a pass is, losses beside it; each [m]) → the weights of its samples in the pass, [m]."""


@dataclass(frozen=True)
class Reweighting:
    """Weights of a micro-batch's samples in the ascent, from their losses at θ and at a probe beside it."""

    probe: Callable[[Mapping[str, Tensor], int], Tensors]
    """(θ, seed) → where the probe is, of the parameters' names and shapes; as θ moves, it moves along."""
    weights: Weighing


def forgetful(function: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensors]) -> Function:
    """A function of two named tensors as one that is given the past as well and does not use it."""

    def given(one: Mapping[str, Tensor], other: Mapping[str, Tensor], past: Past) -> Tensors:
        del past
        return function(one, other)

    return given


def perturbed_gradient(gradient: Mapping[str, Tensor], perturbed: Mapping[str, Tensor], past: Past) -> Tensors:
    """The descent of most variants: the gradient at θ + ε as it is."""
    del gradient, past
    return dict(perturbed)


def nothing(gradient: Mapping[str, Tensor], perturbed: Mapping[str, Tensor], past: Past) -> Tensors:
    """What most variants keep."""
    del gradient, perturbed, past
    return {}


def no_memory(parameters: Mapping[str, Tensor]) -> Tensors:
    """The memory of most variants before training."""
    del parameters
    return {}


def sample_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of every sample, cross-entropy: what is minimised, whatever is ascended.

    Args:
        logits: [m, classes].
        labels: [m].

    Returns:
        [m], in nats.
    """
    return cross_entropy(logits, labels, reduction="none")


@dataclass(frozen=True)
class Perturbation:
    """A variant of SAM with its settings bound; `auditor.sam.variants` has one file for each.

    All functions are differentiable, the loss twice: exact influence takes its derivatives from them. g is the
    gradient of the micro-batch's ascent loss at θ, G that of its loss at θ + ε.
    """

    ascent: Function
    """(θ, g, past) → ε"""
    descent: Function = perturbed_gradient
    """(g, G, past) → the direction that the base optimizer is given, before the mean over micro-batches."""
    ascent_loss: Callable[[Tensor, Tensor], Tensor] = sample_losses
    """(logits [m, classes], labels [m]) → [m]: the weighted mean of this one has the gradient g."""
    reweighting: Reweighting | None = None
    """Weights of its own for the ascent; None leaves those of the samples."""
    descent_weights: Weighing | None = None
    """Weights in G, from the losses at θ + ε and those at θ beside them; None leaves those of the samples."""
    initial_memory: Callable[[Mapping[str, Tensor]], Tensors] = no_memory
    """θ → what `past` holds at the first step."""
    remember: Function = nothing
    """(g, G, past) → what the next step's `past` holds, before the mean over micro-batches; of `initial_memory`'s
    names and shapes."""
    ascends_gradient: bool = True
    """Whether g is used; where it is not, g is empty and its backward pass is saved."""
    perturbs: bool = True
    """Whether there is a pass at θ + ε; where there is none, G is g."""
    turns: Callable[[int], Perturbation] | None = None
    """Step → what the variant does there, for one that does not do the same at every step."""
    period: int = 1
    """Steps after which `turns` comes round."""

    def at(self, step: int) -> Perturbation:
        """What the variant does at a step."""
        return self if self.turns is None else self.turns(step)


def zeros(tensors: Mapping[str, Tensor]) -> Tensors:
    """Zeros of the tensors' names and shapes."""
    return {name: torch.zeros_like(value) for name, value in tensors.items()}


def orthogonal(tensors: Mapping[str, Tensor], to: Mapping[str, Tensor]) -> Tensors:
    """What is left of tensors at right angles to others of the same names and shapes; all of it where those vanish."""
    unit = inverse(global_norm(to.values()))
    along = {name: unit * value for name, value in to.items()}
    component = torch.stack([(tensors[name] * value).sum() for name, value in along.items()]).sum()
    return {name: tensors[name] - component * value for name, value in along.items()}


def global_norm(tensors: Iterable[Tensor], order: float = 2.0) -> Tensor:
    """The vector norm of all entries together, as a scalar tensor."""
    norms = torch.stack([torch.linalg.vector_norm(tensor, order) for tensor in tensors])
    total: Tensor = torch.linalg.vector_norm(norms, order)
    return total


def inverse(norm: Tensor) -> Tensor:
    """1 / norm, and 0 for a norm so small that its square vanishes: rounding would decide where its vector points."""
    floor = torch.finfo(norm.dtype).tiny ** 0.5
    return torch.where(norm > floor, 1.0 / norm.clamp_min(floor), 0.0)
