"""The SAM step: one pure definition, used by training, by replay and by masked retraining.

For micro-batches j = 1..J of m samples with weights w:

    g_j = ∇ (1/m) Σ_k w_k a_k(θ),   ε_j = ascent(θ, g_j),   G_j = ∇ (1/m) Σ_k w_k l_k(θ + ε_j)
    d = (1/J) Σ_j descent(g_j, G_j)       (SAM: descent(g, G) = G, and the ascent loss a_k is the loss l_k)
    u ← μ u + d + λ θ,   θ ← θ − η u      (Nesterov: θ ← θ − η (d + λ θ + μ u))

The micro-batches of one step may run on any number of workers: only their sum is exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from auditor.sam.network import Network
from auditor.sam.perturbation import Perturbation, Tensors, global_norm, sample_losses


@dataclass(frozen=True)
class State:
    """What a step moves."""

    parameters: Tensors
    momentum: Tensors
    """Momentum buffer u, of the parameters' names and shapes."""
    buffers: Tensors

    @classmethod
    def initial(cls, network: Network) -> State:
        """The state before training: the module's own weights and no momentum."""
        parameters = network.parameters()
        momentum = {name: torch.zeros_like(value) for name, value in parameters.items()}
        return cls(parameters, momentum, network.buffers())

    def to(self, device: torch.device) -> State:
        """The same state on a device."""
        return State(
            *(
                {name: value.to(device) for name, value in tensors.items()}
                for tensors in (self.parameters, self.momentum, self.buffers)
            )
        )


@dataclass(frozen=True)
class MicroBatch:
    """Samples that share one ε and one set of BatchNorm statistics."""

    inputs: Tensor
    """[m, ...]"""
    labels: Tensor
    """[m], int64"""
    weights: Tensor
    """[m]; 1 for a sample that counts, 0 for one that is masked"""
    seed: int
    """Seeds dropout, in both passes alike."""


@dataclass(frozen=True)
class MicroBatchResult:
    """What one micro-batch contributes and what is worth recording about it."""

    direction: Tensors
    """descent(g, ∇ at θ + ε)."""
    statistics: Tensors
    """See `Network.train`; from the first pass only."""
    loss: Tensor
    """Weighted mean loss at θ, scalar."""
    grad_norm: Tensor
    """‖g‖₂ at θ, scalar; g is that of the ascent loss."""
    losses: Tensor
    """[m], at θ"""
    margins: Tensor
    """[m], logit of the label minus the largest other logit, at θ"""
    losses_perturbed: Tensor
    """[m], at θ + ε"""
    margins_perturbed: Tensor
    """[m], at θ + ε"""
    predicted: Tensor
    """[m], class with the largest logit at θ"""


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass over a micro-batch, detached."""

    gradient: Tensors
    """Of the weighted mean of the loss that was differentiated."""
    loss: Tensor
    """Weighted mean loss, scalar."""
    losses: Tensor
    """[m], not weighted"""
    logits: Tensor
    """[m, classes]"""
    statistics: Tensors
    """See `Network.train`."""


@dataclass(frozen=True)
class StepSettings:
    """The base optimizer's numbers for one step."""

    learning_rate: float
    momentum: float
    weight_decay: float
    nesterov: bool = False


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Logit of the label minus the largest other logit (Pleiss et al. 2020).

    Args:
        logits: [m, classes].
        labels: [m].

    Returns:
        [m]; negative where another class is preferred.
    """
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return own - others.amax(dim=1)


def micro_batch_pass(
    network: Network,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    batch: MicroBatch,
    loss_of: Callable[[Tensor, Tensor], Tensor] = sample_losses,
) -> Pass:
    """Gradient of one micro-batch's loss (1/m) Σ_k w_k l_k in training mode.

    Args:
        network: The model.
        parameters: Where; not changed.
        buffers: Not changed.
        batch: The samples.
        loss_of: (logits, labels) → [m]: what is differentiated; the losses that are returned are always l_k.

    Returns:
        The gradient and what the pass saw.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    logits, statistics = network.train(leaves, buffers, batch.inputs, batch.seed)
    differentiated = (batch.weights * loss_of(logits, batch.labels)).mean()
    gradient = dict(zip(leaves, torch.autograd.grad(differentiated, list(leaves.values())), strict=True))
    losses = sample_losses(logits.detach(), batch.labels)
    return Pass(gradient, (batch.weights * losses).mean(), losses, logits.detach(), statistics)


def sam_micro_batch(
    network: Network,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    batch: MicroBatch,
    perturbation: Perturbation,
) -> MicroBatchResult:
    """Both passes of SAM over one micro-batch.

    Args:
        network: The model.
        parameters: θ; not changed.
        buffers: Not changed.
        batch: The samples.
        perturbation: The variant of SAM; its ε is a constant in the second pass.

    Returns:
        The direction and the record of both passes, all detached.
    """
    first = micro_batch_pass(network, parameters, buffers, batch, perturbation.ascent_loss)
    epsilon = perturbation.ascent(parameters, first.gradient)
    perturbed = {name: value + epsilon[name] for name, value in parameters.items()}
    second = micro_batch_pass(network, perturbed, buffers, batch)
    return MicroBatchResult(
        direction=perturbation.descent(first.gradient, second.gradient),
        statistics=first.statistics,
        loss=first.loss,
        grad_norm=global_norm(first.gradient.values()),
        losses=first.losses,
        margins=margin(first.logits, batch.labels),
        losses_perturbed=second.losses,
        margins_perturbed=margin(second.logits, batch.labels),
        predicted=first.logits.argmax(dim=1),
    )


def sgd_step(state: State, gradient: Mapping[str, Tensor], settings: StepSettings) -> State:
    """One step of stochastic gradient descent, `torch.optim.SGD`'s arithmetic; the buffers stay as they are.

    Args:
        state: θ and u.
        gradient: What stands for the gradient: d, the mean direction of all micro-batches of the step.
        settings: η, μ, λ and the form of momentum.

    Returns:
        The next state.
    """
    parameters, momentum = {}, {}
    for name, value in state.parameters.items():
        decayed = gradient[name] + settings.weight_decay * value
        moved = settings.momentum * state.momentum[name] + decayed
        direction = decayed + settings.momentum * moved if settings.nesterov else moved
        momentum[name] = moved
        parameters[name] = value - settings.learning_rate * direction
    return State(parameters, momentum, state.buffers)


def sam_step(
    network: Network,
    state: State,
    batches: Iterable[MicroBatch],
    total: int,
    perturbation: Perturbation,
    settings: StepSettings,
    all_reduce: Callable[[Tensors], Tensors] = lambda tensors: tensors,
) -> tuple[State, Tensor, list[MicroBatchResult]]:
    """One SAM step.

    Args:
        network: The model.
        state: Before the step.
        batches: This worker's micro-batches; possibly none.
        total: J, the micro-batches of all workers together.
        perturbation: The variant of SAM.
        settings: The base optimizer's numbers.
        all_reduce: Sums named tensors over the workers.

    Returns:
        The state after the step and its mean loss at θ, equal on all workers, and the results of this worker's
        micro-batches with their directions dropped.
    """
    sums = {f"direction.{name}": torch.zeros_like(value) for name, value in state.parameters.items()}
    running = network.running_keys(state.buffers)
    sums |= {f"statistics.{name}": torch.zeros_like(state.buffers[name]) for name in running}
    sums["loss"] = torch.zeros_like(next(iter(state.parameters.values())).flatten()[0])
    results = []
    for batch in batches:
        result = sam_micro_batch(network, state.parameters, state.buffers, batch, perturbation)
        for name, value in result.direction.items():
            sums[f"direction.{name}"] += value
        for name, value in result.statistics.items():
            sums[f"statistics.{name}"] += value
        sums["loss"] += result.loss
        results.append(MicroBatchResult(**{**vars(result), "direction": {}, "statistics": {}}))
    means = {name: value / total for name, value in all_reduce(sums).items()}
    direction = {name: means[f"direction.{name}"] for name in state.parameters}
    moved = sgd_step(state, direction, settings)
    buffers = network.move_statistics(state.buffers, {name: means[f"statistics.{name}"] for name in running})
    return State(moved.parameters, moved.momentum, buffers), means["loss"], results
