"""ESAM (Du et al. 2022, arXiv 2110.03141).

Source: "Efficient Sharpness-Aware Minimization for Improved Training of Neural Networks".

Two ways to less work. Stochastic weight perturbation: each entry of ε is kept with probability β, and what is kept is
divided by β. Sharpness-sensitive data selection: G is the mean gradient of the share γ of the samples whose loss grows
most from θ to θ + ε.

Here both are part of the objective and neither saves time: all entries have gradients, and BatchNorm's statistics are
those of the whole micro-batch, so that all samples take part in the second pass. The entries are drawn by the seed of
the micro-batch. Which samples are selected is a constant in every derivative: exact but where two of them change
places. A masked sample keeps its place in the selection.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from auditor.sam.perturbation import Past, Perturbation, Tensors
from auditor.sam.variants.sam import sam_ascent


def esam(rho: float, beta: float = 0.6, gamma: float = 0.5) -> Perturbation:
    """SAM of some entries and some samples."""
    return Perturbation(partial(esam_ascent, rho=rho, beta=beta), descent_weights=partial(most_sensitive, gamma=gamma))


def esam_ascent(
    parameters: Mapping[str, Tensor], gradient: Mapping[str, Tensor], past: Past, rho: float, beta: float
) -> Tensors:
    """SAM's ε / β at entries drawn with probability β, and zero elsewhere.

    Args:
        parameters: θ.
        gradient: g, of the micro-batch loss.
        past: Its seed draws.
        rho: Radius ρ of SAM's ε.
        beta: β, above 0 and at most 1.

    Returns:
        ε; zero where `sam_ascent` is.
    """
    # On the CPU, where the same seed draws the same numbers for every device.
    generator = torch.Generator().manual_seed(past.seed)
    whole = sam_ascent(parameters, gradient, rho)
    drawn = {}
    for name, value in whole.items():
        mask = torch.rand(value.shape, generator=generator) < beta
        drawn[name] = value * (mask.to(value) / beta)
    return drawn


def most_sensitive(given: Tensor, perturbed: Tensor, losses: Tensor, gamma: float) -> Tensor:
    """The samples' weights times m / |B⁺| for those that are selected, and 0 for the others.

    Args:
        given: w, [m].
        perturbed: Losses at θ + ε, [m].
        losses: Losses at θ, [m].
        gamma: Share of the samples in B⁺, above 0 and at most 1; one at least is.

    Returns:
        [m]
    """
    count = max(1, round(gamma * len(given)))
    chosen = (perturbed - losses).topk(count).indices
    factors = torch.zeros_like(given).scatter(0, chosen, len(given) / count)
    return given * factors
