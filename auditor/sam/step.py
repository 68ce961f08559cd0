"""The SAM step: one pure definition, used by training, by replay and by masked retraining.

For micro-batches j = 1..J of m samples with weights w:

    g_j = ∇ (1/m) Σ_k w_k a_k(θ),   ε_j = ascent(θ, g_j),   G_j = ∇ (1/m) Σ_k w_k l_k(θ + ε_j)
    d = (1/J) Σ_j descent(g_j, G_j)       (SAM: descent(g, G) = G, and the ascent loss a_k is the loss l_k)
    θ, u ← the base optimizer's step with d in the place of a gradient

What a variant may do beside this (weights of its own, a memory, turns) stands in `auditor.sam.perturbation`. The
micro-batches of one step may run on any number of workers: only their sum is exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from auditor.sam.network import Network
from auditor.sam.optimizer import Optimizer, optimizer_step, second_moment
from auditor.sam.perturbation import Past, Perturbation, Reweighting, Tensors, Weighing, global_norm, sample_losses
from auditor.sam.state import State

Weigh = Callable[[Tensor, Tensor], Tensor]
"""(weights, losses; each [m]) → the weights of a pass, [m]: constants in its gradient."""


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
    """descent(g, G)"""
    memory: Tensors
    """What the variant keeps for the next step."""
    statistics: Tensors
    """See `Network.train`; from the first pass only."""
    loss: Tensor
    """Weighted mean loss at θ, scalar."""
    grad_norm: Tensor
    """‖g‖₂ at θ, scalar; g is that of the ascent loss. ‖G‖₂ for a variant without g."""
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
    """Of the mean of the loss that was differentiated, with the weights of the pass."""
    loss: Tensor
    """Mean loss with the samples' own weights, scalar."""
    losses: Tensor
    """[m], not weighted"""
    logits: Tensor
    """[m, classes]"""
    statistics: Tensors
    """See `Network.train`."""


def prepared(state: State, perturbation: Perturbation, settings: Mapping[str, Any]) -> State:
    """A state that training may begin from: what the base optimizer and the variant keep, as nothing before leaves it.

    Args:
        state: Parameters and buffers, without momentum.
        perturbation: The variant of SAM.
        settings: See `optimizer_at`.
    """
    second = second_moment(settings, state.parameters)
    return replace(state, second=second, memory=perturbation.initial_memory(state.parameters))


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
    weigh: Weigh | None = None,
) -> Pass:
    """Gradient of one micro-batch's loss (1/m) Σ_k w_k l_k in training mode.

    Args:
        network: The model.
        parameters: Where; not changed.
        buffers: Not changed.
        batch: The samples.
        loss_of: (logits, labels) → [m]: what is differentiated; the losses that are returned are always l_k.
        weigh: The weights of this pass; by default those of the samples.

    Returns:
        The gradient and what the pass saw.
    """

    def objective(logits: Tensor) -> Tensor:
        weights = batch.weights
        if weigh is not None:
            weights = weigh(weights, sample_losses(logits.detach(), batch.labels))
        return (weights * loss_of(logits, batch.labels)).mean()

    gradient, logits, statistics = network.gradient(parameters, buffers, batch.inputs, batch.seed, objective)
    losses = sample_losses(logits, batch.labels)
    return Pass(gradient, (batch.weights * losses).mean(), losses, logits, statistics)


def look(network: Network, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: MicroBatch) -> Pass:
    """The same pass without a gradient."""
    with torch.no_grad():
        logits, statistics = network.train(parameters, buffers, batch.inputs, batch.seed)
        losses = sample_losses(logits, batch.labels)
    return Pass({}, (batch.weights * losses).mean(), losses, logits, statistics)


def ascent_weighing(
    network: Network,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    batch: MicroBatch,
    perturbation: Perturbation,
) -> Weigh | None:
    """How the variant weighs the samples of its pass at θ; None where it leaves their weights."""
    if perturbation.reweighting is None:
        return None
    _, losses = probed(network, parameters, buffers, batch, perturbation.reweighting)
    return beside(perturbation.reweighting.weights, losses)


def probed(
    network: Network,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    batch: MicroBatch,
    reweighting: Reweighting,
) -> tuple[Tensors, Tensor]:
    """The probe beside θ, and the samples' losses there, [m]."""
    probe = reweighting.probe(parameters, batch.seed)
    return probe, look(network, probe, buffers, batch).losses


def descent_weighing(perturbation: Perturbation, losses: Tensor) -> Weigh | None:
    """How the variant weighs the samples of its pass at θ + ε, their losses at θ being known; None likewise."""
    return None if perturbation.descent_weights is None else beside(perturbation.descent_weights, losses)


def beside(weighing: Weighing, losses: Tensor) -> Weigh:
    """A weighing with the losses beside its pass known."""
    return lambda weights, here: weighing(weights, here, losses)


def first_pass(
    network: Network,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    batch: MicroBatch,
    perturbation: Perturbation,
) -> Pass:
    """The pass at θ, with g where the variant uses it.

    Args:
        network: The model.
        parameters: θ; not changed.
        buffers: Not changed.
        batch: The samples.
        perturbation: The variant of SAM.

    Returns:
        g and what the pass saw.
    """
    if not perturbation.ascends_gradient:
        return look(network, parameters, buffers, batch)
    weigh = ascent_weighing(network, parameters, buffers, batch, perturbation)
    return micro_batch_pass(network, parameters, buffers, batch, perturbation.ascent_loss, weigh)


def ascend(
    network: Network,
    state: State,
    batch: MicroBatch,
    perturbation: Perturbation,
) -> tuple[Pass, Tensors]:
    """The pass at θ, and θ + ε.

    Args:
        network: The model.
        state: Where; not changed.
        batch: The samples.
        perturbation: The variant of SAM.

    Returns:
        The pass and the perturbed parameters, which are θ where the variant does not perturb.
    """
    first = first_pass(network, state.parameters, state.buffers, batch, perturbation)
    if not perturbation.perturbs:
        return first, state.parameters
    epsilon = perturbation.ascent(state.parameters, first.gradient, Past(state.memory, batch.seed))
    return first, {name: value + epsilon[name] for name, value in state.parameters.items()}


def sam_micro_batch(
    network: Network,
    state: State,
    batch: MicroBatch,
    perturbation: Perturbation,
) -> MicroBatchResult:
    """Both passes of SAM over one micro-batch.

    Args:
        network: The model.
        state: θ, the buffers and the variant's memory; not changed.
        batch: The samples.
        perturbation: The variant of SAM at this step; its ε is a constant in the second pass.

    Returns:
        The direction and the record of both passes, all detached.
    """
    first, perturbed = ascend(network, state, batch, perturbation)
    second = first
    if perturbation.perturbs:
        weigh = descent_weighing(perturbation, first.losses)
        second = micro_batch_pass(network, perturbed, state.buffers, batch, weigh=weigh)
    past = Past(state.memory, batch.seed)
    return MicroBatchResult(
        direction=perturbation.descent(first.gradient, second.gradient, past),
        memory=perturbation.remember(first.gradient, second.gradient, past),
        statistics=first.statistics,
        loss=first.loss,
        grad_norm=global_norm((first.gradient or second.gradient).values()),
        losses=first.losses,
        margins=margin(first.logits, batch.labels),
        losses_perturbed=second.losses,
        margins_perturbed=margin(second.logits, batch.labels),
        predicted=first.logits.argmax(dim=1),
    )


def sam_step(
    network: Network,
    state: State,
    batches: Iterable[MicroBatch],
    total: int,
    perturbation: Perturbation,
    optimizer: Optimizer,
    all_reduce: Callable[[Tensors], Tensors] = lambda tensors: tensors,
) -> tuple[State, Tensor, list[MicroBatchResult]]:
    """One SAM step.

    Args:
        network: The model.
        state: Before the step.
        batches: This worker's micro-batches; possibly none.
        total: J, the micro-batches of all workers together.
        perturbation: The variant of SAM at this step.
        optimizer: The base optimizer's numbers.
        all_reduce: Sums named tensors over the workers.

    Returns:
        The state after the step and its mean loss at θ, equal on all workers, and the results of this worker's
        micro-batches with what is averaged in the state dropped.
    """
    sums = {f"direction.{name}": torch.zeros_like(value) for name, value in state.parameters.items()}
    sums |= {f"memory.{name}": torch.zeros_like(value) for name, value in state.memory.items()}
    running = network.running_keys(state.buffers)
    sums |= {f"statistics.{name}": torch.zeros_like(state.buffers[name]) for name in running}
    like = next(iter(state.parameters.values()))
    sums["loss"] = torch.zeros((), dtype=like.dtype, device=like.device)
    results = []
    for batch in batches:
        result = sam_micro_batch(network, state, batch, perturbation)
        for part in ("direction", "memory", "statistics"):
            for name, value in getattr(result, part).items():
                sums[f"{part}.{name}"] += value
        sums["loss"] += result.loss
        results.append(replace(result, direction={}, memory={}, statistics={}))
    means = {name: value / total for name, value in all_reduce(sums).items()}
    moved = optimizer_step(state, _part(means, "direction", state.parameters), optimizer)
    buffers = network.move_statistics(state.buffers, _part(means, "statistics", running))
    memory = _part(means, "memory", state.memory)
    return replace(moved, buffers=buffers, memory=memory), means["loss"], results


def _part(means: Tensors, part: str, names: Iterable[str]) -> Tensors:
    return {name: means[f"{part}.{name}"] for name in names}
