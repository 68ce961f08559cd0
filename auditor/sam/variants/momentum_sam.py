"""Momentum SAM (Becker et al. 2024, arXiv 2401.12033).

Source: "Momentum-SAM: Sharpness Aware Minimization without Computational Overhead".

ε = −ρ v / ‖v‖₂, where v is the momentum of the steps before, v ← μ v + G, zero at first: against the way that training
has come, where the loss was higher. No gradient at θ is needed, so a step has one backward pass. There is one ε for all
micro-batches of a step.

The authors take the base optimizer's own buffer for v; here the variant keeps its own, which is the same as SGD's of
momentum μ without weight decay, so that every base optimizer will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from auditor.sam.perturbation import Past, Perturbation, Tensors, zeros
from auditor.sam.variants.sam import sam_ascent


def momentum_sam(rho: float, momentum: float = 0.9) -> Perturbation:
    """SAM that ascends against the momentum."""
    return Perturbation(
        partial(momentum_ascent, rho=rho),
        initial_memory=zeros,
        remember=partial(next_momentum, momentum=momentum),
        ascends_gradient=False,
    )


def momentum_ascent(
    parameters: Mapping[str, Tensor], gradient: Mapping[str, Tensor], past: Past, rho: float
) -> Tensors:
    """−ρ v / ‖v‖₂.

    Args:
        parameters: θ.
        gradient: Not used.
        past: Holds v.
        rho: Radius ρ.

    Returns:
        ε; zero at the first step, and where `sam_ascent` is.
    """
    del gradient
    return sam_ascent(parameters, {name: -past.memory[name] for name in parameters}, rho)


def next_momentum(
    gradient: Mapping[str, Tensor], perturbed: Mapping[str, Tensor], past: Past, momentum: float
) -> Tensors:
    """μ v + G.

    Args:
        gradient: Not used.
        perturbed: G, at θ + ε.
        past: Holds v.
        momentum: μ.

    Returns:
        What `past` holds at the next step.
    """
    del gradient
    return {name: momentum * past.memory[name] + value for name, value in perturbed.items()}
