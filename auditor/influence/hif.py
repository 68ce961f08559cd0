"""SAM-HIF: influence by the implicit function theorem at the end of training.

θ* is where the trained objective stands still: G(θ*; w) + λ θ* = 0, with G = Σ_j (m_j / n) G_j the mean gradient of
SAM over micro-batches of m_j samples, each with an ε of its own. With s the solution of (∂G/∂θ + λ I)ᵀ s = ∇f(θ*),

    influence_k = ⟨s, ∂G/∂w_k⟩,      ∂G/∂w_k = (1/n) ∇l_k(θ* + ε)  +  the effect of k on ε itself

(one solve for all samples; "Attributing Data for Sharpness-Aware Minimization", Theorems 4.3 and 4.5). Both ∂G/∂θ
and ∂G/∂w_k have a part with ε held and a part through ε. The paper's fast form keeps neither of the latter, its full
form only that of ∂G/∂θ; `hif_full` keeps both, which is the whole derivative.

The other way round one solve serves all of θ: without the samples S training would stand still near θ* + x with
(∂G/∂θ + λ I) x = Σ_{k in S} ∂G/∂w_k, of which f moves by Σ_{k in S} influence_k to first order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import IntEnum

import torch
from torch import Tensor
from torch.func import jvp, vjp

from auditor.influence.attention import plain_attention
from auditor.influence.passes import micro_batch_hessian
from auditor.influence.pushforward import micro_batch_pushforward
from auditor.influence.replay import micro_batch_pullback
from auditor.sam.network import Network
from auditor.sam.perturbation import Perturbation, Tensors
from auditor.sam.state import State
from auditor.sam.step import MicroBatch, ascend, micro_batch_pass


class System(IntEnum):
    """Which matrix J is solved with; each without λ and damping, which are multiples of I."""

    FULL = 1
    """All of ∂G/∂θ, dε/dθ included; not symmetric."""
    HELD = 2
    """ε (and g, where a variant's descent uses it) held: H(θ* + ε), J of `hif_fast`."""
    PLAIN = 3
    """No perturbation: H(θ*), J of the classic influence function."""
    HELD_GAUSS_NEWTON = 4
    """In place of HELD: the Gauss-Newton matrix at θ* + ε, positive semidefinite; it knows of no descent but SAM's."""
    PLAIN_GAUSS_NEWTON = 5
    """In place of PLAIN: the Gauss-Newton matrix at θ*."""


def transposed_product(
    system: System,
    network: Network,
    state: State,
    batch: MicroBatch,
    perturbation: Perturbation,
    vector: Tensors,
) -> Tensors:
    """Jᵀ v of one micro-batch.

    Args:
        system: Which J.
        network: The model, its BatchNorm in training mode as it was trained.
        state: The end of training: θ*, the buffers, and the variant's memory, which counts as a constant.
        batch: The samples.
        perturbation: The variant of SAM.
        vector: v.

    Returns:
        Of the parameters' names and shapes; Gauss-Newton's keeps nothing that flows through ε.
    """
    match system:
        case System.PLAIN:
            return micro_batch_hessian(network, state.parameters, state.buffers, batch, vector)[0]
        case System.PLAIN_GAUSS_NEWTON:
            return gauss_newton_product(network, state.parameters, state.buffers, batch, vector)
        case System.HELD_GAUSS_NEWTON:
            _, perturbed = ascend(network, state, batch, perturbation)
            return gauss_newton_product(network, perturbed, state.buffers, batch, vector)
    held = system is System.HELD
    found = micro_batch_pullback(network, state, batch, perturbation, vector, held=held)
    return {name: value + found.through[name] for name, value in found.direct.items()}


def row_products(
    system: System,
    network: Network,
    state: State,
    batch: MicroBatch,
    perturbation: Perturbation,
    vector: Tensors,
) -> tuple[Tensor, Tensor]:
    """⟨s, ∂G_j/∂w_k⟩ for every sample of one micro-batch, in its two parts.

    Args:
        system: PLAIN systems have no ε; all others do.
        network: The model.
        state: The end of training: θ*, the buffers, and the variant's memory, which counts as a constant.
        batch: The samples.
        perturbation: The variant of SAM.
        vector: s.

    Returns:
        With ε held, [m], and through ε, [m]; both carry the 1 / m of the micro-batch's mean.
    """
    if system in (System.PLAIN, System.PLAIN_GAUSS_NEWTON):
        held = micro_batch_hessian(network, state.parameters, state.buffers, batch, vector)[1]
        return held, torch.zeros_like(held)
    held_too = system in (System.HELD, System.HELD_GAUSS_NEWTON)
    found = micro_batch_pullback(network, state, batch, perturbation, vector, held=held_too)
    return found.direct_weights, found.through_weights


def product(
    system: System,
    network: Network,
    state: State,
    batch: MicroBatch,
    perturbation: Perturbation,
    vector: Tensors,
) -> Tensors:
    """J v of one micro-batch; arguments and result as those of `transposed_product`."""
    if system in (System.FULL, System.HELD):
        held = system is System.HELD
        return micro_batch_pushforward(network, state, batch, perturbation, moved=vector, held=held)
    return transposed_product(system, network, state, batch, perturbation, vector)


def weights_effect(
    system: System,
    network: Network,
    state: State,
    batch: MicroBatch,
    perturbation: Perturbation,
    weights: Tensor,
    held: bool,
) -> Tensors:
    """Σ_k ẇ_k ∂G_j/∂w_k of one micro-batch: how its direction moves with the weights of its samples.

    Args:
        system: PLAIN systems have no ε; all others do.
        network: The model.
        state: The end of training: θ*, the buffers, and the variant's memory, which counts as a constant.
        batch: The samples.
        perturbation: The variant of SAM.
        weights: ẇ, [m].
        held: Leave out the part through ε.

    Returns:
        Of the parameters' names and shapes; it carries the 1 / m of the micro-batch's mean.
    """
    if system in (System.PLAIN, System.PLAIN_GAUSS_NEWTON):
        return micro_batch_pass(network, state.parameters, state.buffers, replace(batch, weights=weights)).gradient
    return micro_batch_pushforward(network, state, batch, perturbation, weights=weights, held=held)


def gauss_newton_product(
    network: Network, parameters: Tensors, buffers: Mapping[str, Tensor], batch: MicroBatch, vector: Tensors
) -> Tensors:
    """(1/m) Σ_k w_k (∂z_k/∂θ)ᵀ (diag(p_k) − p_k p_kᵀ) (∂z_k/∂θ) v with logits z and probabilities p.

    The curvature of the cross-entropy alone, that of the network dropped (Schraudolph 2002): forward over the
    logits, backward over their cotangent.

    Args:
        network: The model.
        parameters: Where.
        buffers: Not changed.
        batch: The samples.
        vector: v.

    Returns:
        Of the parameters' names and shapes.
    """

    def logits(at: Tensors) -> Tensor:
        return network.train(at, buffers, batch.inputs, batch.seed)[0]

    with plain_attention():
        with torch.no_grad():
            value, moved, *_ = jvp(logits, (parameters,), (vector,))
        _, pull, *_ = vjp(logits, parameters)
    probability = value.softmax(dim=1)
    curved = probability * (moved - (probability * moved).sum(dim=1, keepdim=True))
    (product,) = pull(batch.weights[:, None] * curved / len(batch.labels))
    found: Tensors = product
    return found


def flatten(tensors: Mapping[str, Tensor]) -> Tensor:
    """All entries as one vector, [p]."""
    return torch.cat([value.flatten() for value in tensors.values()])


def unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> Tensors:
    """The inverse of `flatten`, with names and shapes of `like`."""
    parts = torch.split(vector, [value.numel() for value in like.values()])
    return {name: part.view_as(value) for (name, value), part in zip(like.items(), parts, strict=True)}
