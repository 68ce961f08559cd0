"""Sparse SAM (Mi et al. 2022, "Make Sharpness-Aware Minimization Stronger: A Sparsified Perturbation Approach").

ε = ρ (g / ‖g‖₂) ⊙ m, where m is 1 for the share `density` of all entries whose |g| is largest and 0 for the others.

The paper draws m from the Fisher information of some samples and keeps it for an epoch; here each micro-batch takes
the square of its own gradient for it, so that a step depends on nothing before it. m is piecewise constant in g, and a
constant in every derivative: exact but where two entries change places.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from auditor.sam.perturbation import Perturbation, Tensors, forgetful
from auditor.sam.variants.sam import sam_ascent


def sparse_sam(rho: float, density: float = 0.5) -> Perturbation:
    """SAM that moves only the entries with the largest gradients."""
    return Perturbation(forgetful(partial(sparse_sam_ascent, rho=rho, density=density)))


def sparse_sam_ascent(
    parameters: Mapping[str, Tensor], gradient: Mapping[str, Tensor], rho: float, density: float
) -> Tensors:
    """SAM's ε where |g| is large, and zero elsewhere.

    Args:
        parameters: Not used.
        gradient: g, of the micro-batch loss.
        rho: Radius ρ of SAM's ε; what is left of it is shorter.
        density: Share of the entries that move, above 0 and at most 1; one at least does, and ties move together.

    Returns:
        ε; zero where `sam_ascent` is.
    """
    sizes = torch.cat([value.detach().abs().flatten() for value in gradient.values()])
    kept = max(1, round(density * len(sizes)))
    smallest = sizes.kthvalue(len(sizes) - kept + 1).values
    whole = sam_ascent(parameters, gradient, rho)
    return {name: torch.where(gradient[name].detach().abs() >= smallest, value, 0.0) for name, value in whole.items()}
