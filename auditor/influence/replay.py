"""Exact influence: reverse-mode differentiation through every recorded SAM step (the metagradient of training).

With the cotangent (λ_θ, λ_u) of the state after a step, the weights w_k of its samples and v the cotangent of the
step's direction d (for plain momentum v = λ_u − η λ_θ), each micro-batch contributes

    (r, s) = the pullback of descent(g, G) at v      (SAM: r = 0, s = v),
    a_k = ⟨∇l_k(θ + ε), s⟩,  h = H(θ + ε) s          through the second pass,
    (p, z) = the pullback of ε = ascent(θ, g) at h,
    b_k = ⟨∇l_k(θ), z + r⟩,  h' = H(θ) (z + r)       through the first pass,

    ∂f/∂w_k += (a_k + b_k) / (J m),   λ_θ += (h + p + h') / J,   influence_k = −∂f/∂w_k summed over all steps.

∇l_k(θ) and H(θ) of the first pass are those of the variant's ascent loss, where it has one of its own.
Ascent and descent are differentiated as they are written, so every SAM variant is covered by its own functions.
BatchNorm works in training mode, its batch statistics differentiated; running statistics take no part in training,
and f reads precise statistics (see `auditor.influence.statistics`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vjp

from auditor.influence.attention import plain_attention
from auditor.influence.double_backward import CheapDoubleBackward
from auditor.sam.network import Network
from auditor.sam.perturbation import Perturbation, Tensors, sample_losses
from auditor.sam.step import MicroBatch, State, StepSettings, sgd_step


@dataclass(frozen=True)
class Pullback:
    """What the cotangent v of one micro-batch's direction becomes, in two parts."""

    direct: Tensors
    """Toward θ with ε and g held: h."""
    through: Tensors
    """Toward θ through ε and g: p + h'."""
    direct_weights: Tensor
    """a / m: toward the samples' weights with ε and g held, [m]."""
    through_weights: Tensor
    """b / m: toward the samples' weights through ε and g, [m]."""


@dataclass(frozen=True)
class Cotangent:
    """The derivative of f in a state: how much f moves with the parameters and with the momentum there."""

    parameters: Tensors
    """λ_θ"""
    momentum: Tensors
    """λ_u"""

    @classmethod
    def final(cls, gradient: Tensors) -> Cotangent:
        """At the end of training: (∇f(θ_T), 0)."""
        return cls(gradient, {name: torch.zeros_like(value) for name, value in gradient.items()})


def step_pullback(
    network: Network,
    state: State,
    batches: Sequence[MicroBatch],
    total: int,
    perturbation: Perturbation,
    settings: StepSettings,
    cotangent: Cotangent,
    all_reduce: Callable[[Tensors], Tensors] = lambda tensors: tensors,
) -> tuple[Cotangent, list[Tensor]]:
    """Pull a cotangent back through one SAM step.

    Args:
        network: The model.
        state: The state before the step.
        batches: This worker's micro-batches of the step, as they were trained on; possibly none.
        total: J, the micro-batches of all workers together.
        perturbation: The variant of SAM.
        settings: The base optimizer's numbers at this step.
        cotangent: Of the state after the step; equal on all workers.
        all_reduce: Sums named tensors over the workers.

    Returns:
        The cotangent of the state before the step, equal on all workers, and ∂f/∂w [m] for each given micro-batch.
    """
    before, toward = _optimizer_pullback(state, settings, cotangent)
    sums = {name: torch.zeros_like(value) for name, value in state.parameters.items()}
    weights = []
    for batch in batches:
        found = micro_batch_pullback(network, state.parameters, state.buffers, batch, perturbation, toward)
        for name in sums:
            sums[name] += found.direct[name] + found.through[name]
        weights.append((found.direct_weights + found.through_weights) / total)
    sums = all_reduce(sums)
    parameters = {name: before.parameters[name] + value / total for name, value in sums.items()}
    return Cotangent(parameters, before.momentum), weights


def micro_batch_pullback(
    network: Network,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    batch: MicroBatch,
    perturbation: Perturbation,
    toward: Tensors,
    held: bool = False,
) -> Pullback:
    """Pull the cotangent v of one micro-batch's direction back to θ and to the samples' weights.

    Args:
        network: The model.
        parameters: θ.
        buffers: Not changed.
        batch: The samples.
        perturbation: The variant of SAM.
        toward: v.
        held: Leave the parts through ε and g at zero, which saves a third of the work.

    Returns:
        Its parts toward θ, of the parameters' names and shapes, and toward the weights.
    """
    first = _Pass(network, parameters, buffers, batch, perturbation.ascent_loss)
    epsilon, pull_ascent, *_ = vjp(perturbation.ascent, dict(parameters), first.gradient)
    perturbed = {name: value + epsilon[name] for name, value in parameters.items()}
    second = _Pass(network, perturbed, buffers, batch)
    _, pull_descent, *_ = vjp(perturbation.descent, first.gradient, second.gradient)
    toward_first, toward_second = pull_descent(toward)
    curved, direct = second.along(toward_second)
    if held:
        still = {name: torch.zeros_like(value) for name, value in curved.items()}
        return Pullback(curved, still, direct, torch.zeros_like(direct))
    through_parameters, through_gradient = pull_ascent(curved)
    bent, indirect = first.along({name: value + toward_first[name] for name, value in through_gradient.items()})
    through = {name: through_parameters[name] + bent[name] for name in bent}
    return Pullback(curved, through, direct, indirect)


def micro_batch_hessian(
    network: Network,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    batch: MicroBatch,
    vector: Tensors,
    loss_of: Callable[[Tensor, Tensor], Tensor] = sample_losses,
) -> tuple[Tensors, Tensor]:
    """Without any perturbation: the Hessian of one micro-batch's loss times a vector, and ⟨∇l_k, v⟩ / m, [m]."""
    return _Pass(network, parameters, buffers, batch, loss_of).along(vector)


class _Pass:
    """A forward and backward pass whose graph is kept, so that its gradient can be differentiated once more."""

    def __init__(
        self,
        network: Network,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        batch: MicroBatch,
        loss_of: Callable[[Tensor, Tensor], Tensor] = sample_losses,
    ) -> None:
        self._leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        self._weights = batch.weights.detach().requires_grad_()
        with plain_attention(), CheapDoubleBackward():
            logits, _ = network.train(self._leaves, buffers, batch.inputs, batch.seed)
        loss = (self._weights * loss_of(logits, batch.labels)).mean()
        self._gradient = torch.autograd.grad(loss, list(self._leaves.values()), create_graph=True)
        self.gradient = {name: value.detach() for name, value in zip(self._leaves, self._gradient, strict=True)}

    def along(self, direction: Tensors) -> tuple[Tensors, Tensor]:
        """H v, and ⟨∇l_k, v⟩ / m for every sample: both are derivatives of ⟨∇L(θ; w), v⟩, which is linear in w."""
        *curved, weights = torch.autograd.grad(
            self._gradient,
            [*self._leaves.values(), self._weights],
            [direction[name] for name in self._leaves],
            allow_unused=True,
            materialize_grads=True,
        )
        return dict(zip(self._leaves, curved, strict=True)), weights


def _optimizer_pullback(state: State, settings: StepSettings, cotangent: Cotangent) -> tuple[Cotangent, Tensors]:
    """The base optimizer's part: cotangents of (θ, u) with the gradient held, and v, that of the gradient.

    The step is linear in state and gradient, so its derivative does not depend on the gradient's value.
    """

    def step(parameters: Tensors, momentum: Tensors, gradient: Tensors) -> tuple[Tensors, Tensors]:
        after = sgd_step(State(parameters, momentum, {}), gradient, settings)
        return after.parameters, after.momentum

    still = {name: torch.zeros_like(value) for name, value in state.parameters.items()}
    _, pull, *_ = vjp(step, state.parameters, state.momentum, still)
    parameters, momentum, gradient = pull((cotangent.parameters, cotangent.momentum))
    return Cotangent(parameters, momentum), gradient
