"""Forward through one micro-batch: how its direction moves when parameters and samples' weights do.

The transpose of `auditor.influence.replay.micro_batch_pullback`. With (v, ẇ) the movement of (θ, w):

    ġ = H(θ) v + (1/m) Σ_k ẇ_k ∇l_k(θ),                     ε̇ = the derivative of ascent(θ, g) along (v, ġ),
    Ġ = H(θ + ε) (v + ε̇) + (1/m) Σ_k ẇ_k ∇l_k(θ + ε),       ḋ = the derivative of descent(g, G) along (ġ, Ġ).

∇l_k(θ) and H(θ) are those of the variant's ascent loss, where it has one of its own. A Hessian is symmetric, so its
products are the cheap ones of reverse mode; ascent and descent are differentiated forward as they are written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.func import jvp

from auditor.influence.attention import plain_attention
from auditor.influence.passes import micro_batch_hessian
from auditor.sam.network import Network
from auditor.sam.perturbation import Past, Perturbation, Tensors, Weighing, sample_losses, zeros
from auditor.sam.state import State
from auditor.sam.step import MicroBatch, descent_weighing, first_pass, micro_batch_pass, probed


def micro_batch_pushforward(
    network: Network,
    state: State,
    batch: MicroBatch,
    perturbation: Perturbation,
    moved: Tensors | None = None,
    weights: Tensor | None = None,
    held: bool = False,
) -> Tensors:
    """ḋ: the derivative of one micro-batch's direction descent(g, G).

    Args:
        network: The model.
        state: Where; a variant's memory in it stays as it is.
        batch: The samples.
        perturbation: The variant of SAM.
        moved: v, of the parameters' names and shapes; None where θ stays.
        weights: ẇ, [m]; None where the weights stay.
        held: Hold ε and g, which saves half of the work.

    Returns:
        Of the parameters' names and shapes.
    """
    parameters, past = dict(state.parameters), Past(state.memory, batch.seed)
    still = zeros(parameters)
    first = first_pass(network, parameters, state.buffers, batch, perturbation)
    gradient = first.gradient
    gradient_moved = {name: still[name] for name in gradient}
    if not held and perturbation.ascends_gradient:
        gradient_moved = _first_moved(network, state, batch, perturbation, first.losses, moved, weights)
    if not perturbation.perturbs:
        second = gradient
        # Without a pass at θ + ε nothing is held.
        second_moved = _moved(network, parameters, state.buffers, batch, moved, weights)
        gradient_moved = {name: second_moved[name] for name in gradient}
    else:
        epsilon, epsilon_moved, *_ = jvp(
            lambda at, of: perturbation.ascent(at, of, past), (parameters, gradient), (moved or still, gradient_moved)
        )
        by = moved
        if not held:
            by = {name: value + (moved or still)[name] for name, value in epsilon_moved.items()}
        perturbed = {name: value + epsilon[name] for name, value in parameters.items()}
        weigh = descent_weighing(perturbation, first.losses)
        found = micro_batch_pass(network, perturbed, state.buffers, batch, weigh=weigh)
        second = found.gradient
        if perturbation.descent_weights is not None:
            losses_moved = _losses_moved(network, perturbed, state.buffers, batch, by)
            beside_moved = _losses_moved(network, parameters, state.buffers, batch, None if held else moved)
            batch, weights = _weighed(
                perturbation.descent_weights,
                batch,
                weights,
                (found.losses, first.losses),
                (losses_moved, beside_moved),
            )
        second_moved = _moved(network, perturbed, state.buffers, batch, by, weights)
    _, direction, *_ = jvp(
        lambda one, other: perturbation.descent(one, other, past), (gradient, second), (gradient_moved, second_moved)
    )
    pushed: Tensors = direction
    return pushed


def _first_moved(
    network: Network,
    state: State,
    batch: MicroBatch,
    perturbation: Perturbation,
    losses: Tensor,
    moved: Tensors | None,
    weights: Tensor | None,
) -> Tensors:
    """Return ġ; `losses` are those at θ."""
    parameters, buffers = state.parameters, state.buffers
    if (reweighting := perturbation.reweighting) is not None:
        probe, beside = probed(network, parameters, buffers, batch, reweighting)
        losses_moved, beside_moved = (_losses_moved(network, at, buffers, batch, moved) for at in (parameters, probe))
        batch, weights = _weighed(reweighting.weights, batch, weights, (losses, beside), (losses_moved, beside_moved))
    return _moved(network, parameters, buffers, batch, moved, weights, perturbation.ascent_loss)


def _losses_moved(
    network: Network, at: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: MicroBatch, by: Tensors | None
) -> Tensor:
    """The movement of the samples' losses at a point that moves by a tangent, [m]."""
    if by is None:
        return torch.zeros_like(batch.weights)

    def losses(parameters: Tensors) -> Tensor:
        logits, _ = network.train(parameters, buffers, batch.inputs, batch.seed)
        return sample_losses(logits, batch.labels)

    with torch.no_grad(), plain_attention():
        _, derivative, *_ = jvp(losses, (dict(at),), (by,))
    found: Tensor = derivative
    return found


def _weighed(
    weighing: Weighing,
    batch: MicroBatch,
    weights: Tensor | None,
    losses: tuple[Tensor, Tensor],
    moved: tuple[Tensor, Tensor],
) -> tuple[MicroBatch, Tensor]:
    """The micro-batch with the weights of a pass, and their movement [m], from losses of the pass and beside it."""
    given = torch.zeros_like(batch.weights) if weights is None else weights
    own, own_moved, *_ = jvp(weighing, (batch.weights, *losses), (given, *moved))
    return replace(batch, weights=own), own_moved


def _moved(
    network: Network,
    at: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    batch: MicroBatch,
    by: Tensors | None,
    weights: Tensor | None,
    loss_of: Callable[[Tensor, Tensor], Tensor] = sample_losses,
) -> Tensors:
    """The movement of the gradient at a point that moves by a tangent, the weights moving too."""
    found = zeros(at) if by is None else micro_batch_hessian(network, at, buffers, batch, by, loss_of)[0]
    if weights is None:
        return found
    weighed = micro_batch_pass(network, at, buffers, replace(batch, weights=weights), loss_of).gradient
    return {name: value + weighed[name] for name, value in found.items()}
