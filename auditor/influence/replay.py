"""Exact influence: reverse-mode differentiation through every recorded SAM step (the metagradient of training).

With the cotangent (λ_θ, λ_u) of the state after a step, the weights w_k of its samples and v the cotangent of the
step's gradient G (for plain momentum v = λ_u − η λ_θ), each micro-batch contributes

    a_k = ⟨∇l_k(θ + ε), v⟩,  h = H(θ + ε) v         through the second pass,
    (p, z) = the pullback of ε = perturbation(θ, g) at h,
    b_k = ⟨∇l_k(θ), z⟩,      h' = H(θ) z             through ε itself,

    ∂f/∂w_k += (a_k + b_k) / (J m),   λ_θ += (h + p + h') / J,   influence_k = −∂f/∂w_k summed over all steps.

The perturbation is differentiated as it is written, so every SAM variant is covered by its own function. BatchNorm
works in training mode, its batch statistics differentiated; running statistics take no part in training, and f reads
precise statistics (see `auditor.influence.statistics`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import vjp
from torch.nn.functional import cross_entropy

from auditor.influence.attention import plain_attention
from auditor.sam.network import Network
from auditor.sam.perturbation import PerturbationFunction, Tensors
from auditor.sam.step import MicroBatch, State, StepSettings, sgd_step


@dataclass(frozen=True)
class Pullback:
    """What the cotangent v of one micro-batch's gradient at θ + ε becomes, in two parts."""

    direct: Tensors
    """Toward θ with ε held: h = H(θ + ε) v."""
    through: Tensors
    """Toward θ through ε itself: p + h'."""
    direct_weights: Tensor
    """a / m: toward the samples' weights with ε held, [m]."""
    through_weights: Tensor
    """b / m: toward the samples' weights through ε, [m]."""


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
    perturbation: PerturbationFunction,
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
        perturbation: Makes ε.
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
    perturbation: PerturbationFunction,
    toward: Tensors,
) -> Pullback:
    """Pull the cotangent v of one micro-batch's gradient at θ + ε back to θ and to the samples' weights.

    Args:
        network: The model.
        parameters: θ.
        buffers: Not changed.
        batch: The samples.
        perturbation: Makes ε.
        toward: v.

    Returns:
        Its parts toward θ, of the parameters' names and shapes, and toward the weights.
    """
    first = _Pass(network, parameters, buffers, batch)

    def perturb(at: Tensors, gradient: Tensors) -> Tensors:
        return perturbation(at, gradient)

    epsilon, pull, *_ = vjp(perturb, dict(parameters), first.gradient)
    perturbed = {name: value + epsilon[name] for name, value in parameters.items()}
    curved, direct = _Pass(network, perturbed, buffers, batch).along(toward)
    through_parameters, through_gradient = pull(curved)
    bent, indirect = first.along(through_gradient)
    through = {name: through_parameters[name] + bent[name] for name in bent}
    return Pullback(curved, through, direct, indirect)


class _Pass:
    """A forward and backward pass whose graph is kept, so that its gradient can be differentiated once more."""

    def __init__(
        self, network: Network, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: MicroBatch
    ) -> None:
        self._leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        self._weights = batch.weights.detach().requires_grad_()
        with plain_attention():
            logits, _ = network.train(self._leaves, buffers, batch.inputs, batch.seed)
        losses = cross_entropy(logits, batch.labels, reduction="none")
        loss = (self._weights * losses).mean()
        self._gradient = torch.autograd.grad(loss, list(self._leaves.values()), create_graph=True)
        self.gradient = {name: value.detach() for name, value in zip(self._leaves, self._gradient, strict=True)}

    def along(self, direction: Tensors) -> tuple[Tensors, Tensor]:
        """H v, and ⟨∇l_k, v⟩ / m for every sample: both are derivatives of ⟨∇L(θ; w), v⟩, which is linear in w."""
        with torch.enable_grad():
            product = torch.stack(
                [(value * direction[name]).sum() for name, value in zip(self._leaves, self._gradient, strict=True)]
            ).sum()
        *curved, weights = torch.autograd.grad(
            product, [*self._leaves.values(), self._weights], allow_unused=True, materialize_grads=True
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
