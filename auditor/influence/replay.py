"""Exact influence: reverse-mode differentiation through every recorded SAM step (the metagradient of training).

With the cotangent (λ_θ, λ_u) of the state after a step, the weights w_k of its samples and v the cotangent of the
step's direction d (for SGD with momentum v = λ_u − η λ_θ), each micro-batch contributes

    (r, s) = the pullback of descent(g, G) at v, and of what the variant keeps      (SAM: r = 0, s = v),
    a_k = ⟨∇l_k(θ + ε), s⟩,  h = H(θ + ε) s          through the second pass,
    (p, z) = the pullback of ε = ascent(θ, g) at h,
    b_k = ⟨∇l_k(θ), z + r⟩,  h' = H(θ) (z + r)       through the first pass,

    ∂f/∂w_k += (a_k + b_k) / (J m),   λ_θ += (h + p + h') / J,   influence_k = −∂f/∂w_k summed over all steps.

∇l_k(θ) and H(θ) of the first pass are those of the variant's ascent loss, where it has one of its own; where a pass
has weights of its own, the derivative goes on to the losses that they come from. What a variant keeps from step to step
has a cotangent like θ. Ascent, descent, memory and the base optimizer are differentiated as they are written, so every
variant is covered by its own functions.
BatchNorm works in training mode, its batch statistics differentiated; running statistics take no part in training,
and f reads precise statistics (see `auditor.influence.statistics`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

import torch
from torch import Tensor
from torch.func import vjp

from auditor.influence.passes import FirstPass, Pass
from auditor.sam.adamw import AdamW, direction_between
from auditor.sam.network import Network
from auditor.sam.optimizer import Optimizer, optimizer_step
from auditor.sam.perturbation import Past, Perturbation, Tensors, zeros
from auditor.sam.state import State
from auditor.sam.step import MicroBatch


@dataclass(frozen=True)
class Pullback:
    """What the cotangents of one micro-batch's direction and memory become, in two parts."""

    direct: Tensors
    """Toward θ with ε and g held: h."""
    through: Tensors
    """Toward θ through ε and g: p + h'."""
    direct_weights: Tensor
    """a / m: toward the samples' weights with ε and g held, [m]."""
    through_weights: Tensor
    """b / m: toward the samples' weights through ε and g, [m]."""
    memory: Tensors
    """Toward the variant's memory before the step."""


@dataclass(frozen=True)
class Cotangent:
    """The derivative of f in a state: how much f moves with each part of it."""

    parameters: Tensors
    """λ_θ"""
    momentum: Tensors
    """λ_u"""
    second: Tensors = field(default_factory=dict)
    """Of AdamW's second moment."""
    memory: Tensors = field(default_factory=dict)
    """Of the variant's memory."""

    @classmethod
    def final(cls, gradient: Tensors, state: State) -> Cotangent:
        """At the end of training, ∇f(θ_T): f sees nothing of the state but its parameters."""
        return cls(gradient, *(zeros(tensors) for tensors in (state.momentum, state.second, state.memory)))

    def parts(self) -> list[tuple[str, Tensors]]:
        """Its fields by name."""
        return [(each.name, getattr(self, each.name)) for each in fields(self)]


def step_pullback(
    network: Network,
    before: State,
    after: State,
    batches: Sequence[MicroBatch],
    total: int,
    perturbation: Perturbation,
    optimizer: Optimizer,
    cotangent: Cotangent,
    all_reduce: Callable[[Tensors], Tensors] = lambda tensors: tensors,
) -> tuple[Cotangent, list[Tensor]]:
    """Pull a cotangent back through one SAM step.

    Args:
        network: The model.
        before: The state before the step.
        after: The state after it.
        batches: This worker's micro-batches of the step, as they were trained on; possibly none.
        total: J, the micro-batches of all workers together.
        perturbation: The variant of SAM at this step.
        optimizer: The base optimizer's numbers at this step.
        cotangent: Of the state after the step; equal on all workers.
        all_reduce: Sums named tensors over the workers.

    Returns:
        The cotangent of the state before the step, equal on all workers, and ∂f/∂w [m] for each given micro-batch.
    """
    held, toward = _optimizer_pullback(before, after, optimizer, cotangent)
    sums = {f"parameters.{name}": torch.zeros_like(value) for name, value in before.parameters.items()}
    sums |= {f"memory.{name}": torch.zeros_like(value) for name, value in before.memory.items()}
    weights = []
    for batch in batches:
        found = micro_batch_pullback(network, before, batch, perturbation, toward, cotangent.memory)
        for name in before.parameters:
            sums[f"parameters.{name}"] += found.direct[name] + found.through[name]
        for name, value in found.memory.items():
            sums[f"memory.{name}"] += value
        weights.append((found.direct_weights + found.through_weights) / total)
    sums = {name: value / total for name, value in all_reduce(sums).items()}
    parameters = {name: value + sums[f"parameters.{name}"] for name, value in held.parameters.items()}
    memory = {name: sums[f"memory.{name}"] for name in before.memory}
    return replace(held, parameters=parameters, memory=memory), weights


def micro_batch_pullback(
    network: Network,
    state: State,
    batch: MicroBatch,
    perturbation: Perturbation,
    toward: Tensors,
    toward_memory: Tensors | None = None,
    held: bool = False,
) -> Pullback:
    """Pull the cotangent v of one micro-batch's direction, and that of its memory, back to the state and the weights.

    Args:
        network: The model.
        state: Before the step; not changed.
        batch: The samples.
        perturbation: The variant of SAM at this step.
        toward: v.
        toward_memory: Of the memory that this micro-batch leaves; zero by default.
        held: Leave the parts through ε and g at zero, which saves a third of the work.

    Returns:
        Its parts toward θ, of the parameters' names and shapes, toward the weights, and toward the memory.
    """
    first = FirstPass(network, state, batch, perturbation)

    def ascend(parameters: Tensors, gradient: Tensors, memory: Tensors) -> Tensors:
        return perturbation.ascent(parameters, gradient, Past(memory, batch.seed))

    def descend(gradient: Tensors, perturbed: Tensors, memory: Tensors) -> tuple[Tensors, Tensors]:
        past = Past(memory, batch.seed)
        return perturbation.descent(gradient, perturbed, past), perturbation.remember(gradient, perturbed, past)

    parameters, memory = dict(state.parameters), dict(state.memory)
    second: Pass | None = None
    if perturbation.perturbs:
        epsilon, pull_ascent, *_ = vjp(ascend, parameters, first.gradient, memory)
        perturbed = {name: value + epsilon[name] for name, value in parameters.items()}
        second = Pass(
            network, perturbed, state.buffers, batch, weighing=perturbation.descent_weights, beside=first.losses
        )
    _, pull_descent, *_ = vjp(descend, first.gradient, (second or first).gradient, memory)
    toward_first, toward_second, before = pull_descent((toward, toward_memory or zeros(memory)))
    if second is None:
        # Both are the same gradient.
        curved, direct = first.along({name: value + toward_first[name] for name, value in toward_second.items()})
        return Pullback(curved, zeros(curved), direct, torch.zeros_like(direct), before)
    curved, direct, toward_losses = second.along(toward_second)
    if held:
        return Pullback(curved, zeros(curved), direct, torch.zeros_like(direct), before)
    through_parameters, through_gradient, through_memory = pull_ascent(curved)
    towards = {name: value + toward_first[name] for name, value in through_gradient.items()}
    bent, indirect = first.along(towards, toward_losses)
    through = {name: through_parameters[name] + value for name, value in bent.items()}
    before = {name: value + through_memory[name] for name, value in before.items()}
    return Pullback(curved, through, direct, indirect, before)


def _optimizer_pullback(
    before: State, after: State, optimizer: Optimizer, cotangent: Cotangent
) -> tuple[Cotangent, Tensors]:
    """The base optimizer's part: the cotangent of the state with the gradient held, and v, that of the gradient."""
    # SGD's step is linear in state and gradient: its derivative does not depend on what the gradient was.
    gradient = direction_between(before, after, optimizer) if isinstance(optimizer, AdamW) else zeros(before.parameters)

    def step(parameters: Tensors, momentum: Tensors, second: Tensors, gradient: Tensors) -> tuple[Tensors, ...]:
        moved = optimizer_step(State(parameters, momentum, {}, second), gradient, optimizer)
        return moved.parameters, moved.momentum, moved.second

    _, pull, *_ = vjp(step, before.parameters, before.momentum, before.second, gradient)
    *held, toward = pull((cotangent.parameters, cotangent.momentum, cotangent.second))
    return Cotangent(*held), toward
