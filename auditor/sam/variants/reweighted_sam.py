"""Reweighted SAM (Luo et al. 2025, arXiv 2509.18001).

Source: "Unveiling m-Sharpness Through the Structure of Stochastic Gradient Noise".

ε = ρ g / ‖g‖₂ as in SAM, but g is the gradient of Σ_k p_k l_k with weights that grow with the length of a sample's own
gradient,

    p = softmax(λ n),    n_k = |l_k(θ + δ z) − l_k(θ)| / δ,

which does to n-SAM what small micro-batches do. n_k stands for ‖∇l_k‖: one random finite difference, z of entries ±1
drawn by the micro-batch's seed, so that |⟨∇l_k, z⟩| is of the size of ‖∇l_k‖. p is no constant of training: it moves
with θ and with the samples' weights, and exact influence goes through it. A masked sample's p is zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from auditor.sam.perturbation import Perturbation, Reweighting, Tensors, forgetful
from auditor.sam.variants.sam import sam_ascent


def reweighted_sam(rho: float, temperature: float = 0.5, delta: float = 1e-3) -> Perturbation:
    """SAM whose ascent counts samples with long gradients for more."""
    reweighting = Reweighting(partial(probe, delta=delta), partial(weights, temperature=temperature, delta=delta))
    return Perturbation(forgetful(partial(sam_ascent, rho=rho)), reweighting=reweighting)


def probe(parameters: Mapping[str, Tensor], seed: int, delta: float) -> Tensors:
    """θ + δ z.

    Args:
        parameters: θ.
        seed: Draws z.
        delta: δ, the length of every entry's step.

    Returns:
        Of the parameters' names and shapes.
    """
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, value in parameters.items():
        signs = torch.randint(2, value.shape, generator=generator) * 2 - 1
        found[name] = value + delta * signs.to(value)
    return found


def weights(given: Tensor, losses: Tensor, beside: Tensor, temperature: float, delta: float) -> Tensor:
    """M p_k, with the samples' own weights inside the softmax's sums.

    Args:
        given: w, [m].
        losses: At θ, [m].
        beside: At θ + δ z, [m].
        temperature: λ; 0 is SAM.
        delta: δ.

    Returns:
        [m]; their mean is 1 unless all of w is zero, where they are zero.
    """
    lengths = (beside - losses).abs() / delta
    scores = temperature * lengths
    grown = given * (scores - scores.detach().max()).exp()
    total = grown.sum()
    return len(given) * grown / torch.where(total > 0, total, 1.0)
