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

from auditor.influence.replay import micro_batch_hessian
from auditor.sam.network import Network
from auditor.sam.perturbation import Perturbation, Tensors, sample_losses
from auditor.sam.step import MicroBatch, micro_batch_pass


def micro_batch_pushforward(
    network: Network,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    batch: MicroBatch,
    perturbation: Perturbation,
    moved: Tensors | None = None,
    weights: Tensor | None = None,
    held: bool = False,
) -> Tensors:
    """ḋ: the derivative of one micro-batch's direction descent(g, G).

    Args:
        network: The model.
        parameters: θ.
        buffers: Not changed.
        batch: The samples.
        perturbation: The variant of SAM.
        moved: v, of the parameters' names and shapes; None where θ stays.
        weights: ẇ, [m]; None where the weights stay.
        held: Hold ε and g, which saves half of the work.

    Returns:
        Of the parameters' names and shapes.
    """
    ascended = perturbation.ascent_loss
    gradient = micro_batch_pass(network, parameters, buffers, batch, ascended).gradient
    still = {name: torch.zeros_like(value) for name, value in parameters.items()}

    def turned(
        at: Mapping[str, Tensor], by: Tensors | None, loss_of: Callable[[Tensor, Tensor], Tensor] = sample_losses
    ) -> Tensors:
        """The movement of the gradient at a point that moves by a tangent, the weights moving too."""
        found = still if by is None else micro_batch_hessian(network, at, buffers, batch, by, loss_of)[0]
        if weights is None:
            return found
        weighed = micro_batch_pass(network, at, buffers, replace(batch, weights=weights), loss_of).gradient
        return {name: value + weighed[name] for name, value in found.items()}

    gradient_moved, by = still, moved
    if held:
        epsilon = perturbation.ascent(parameters, gradient)
    else:
        gradient_moved = turned(parameters, moved, ascended)
        epsilon, epsilon_moved, *_ = jvp(
            perturbation.ascent, (dict(parameters), gradient), (moved or still, gradient_moved)
        )
        by = {name: value + (moved or still)[name] for name, value in epsilon_moved.items()}
    perturbed = {name: value + epsilon[name] for name, value in parameters.items()}
    second = micro_batch_pass(network, perturbed, buffers, batch).gradient
    _, direction, *_ = jvp(perturbation.descent, (gradient, second), (gradient_moved, turned(perturbed, by)))
    found: Tensors = direction
    return found
