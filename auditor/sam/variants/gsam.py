"""GSAM (Zhuang et al. 2022, "Surrogate Gap Minimization Improves Sharpness-Aware Training", Algorithm 1).

ε = ρ g / ‖g‖₂ as in SAM. With G the gradient at θ + ε the direction is

    G − α g_⊥,   g_⊥ = g − ⟨g, Ĝ⟩ Ĝ,   Ĝ = G / ‖G‖₂:

the step's share of g_⊥ raises the loss at θ without changing, to first order, the loss at θ + ε, so that the gap
between the two closes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from auditor.sam.perturbation import Perturbation, Tensors, forgetful, orthogonal
from auditor.sam.variants.sam import sam_ascent


def gsam(rho: float, alpha: float = 0.1) -> Perturbation:
    """GSAM with a constant radius."""
    return Perturbation(forgetful(partial(sam_ascent, rho=rho)), forgetful(partial(gsam_descent, alpha=alpha)))


def gsam_descent(gradient: Mapping[str, Tensor], perturbed: Mapping[str, Tensor], alpha: float) -> Tensors:
    """G − α g_⊥.

    Args:
        gradient: g, at θ.
        perturbed: G, at θ + ε.
        alpha: α, how much closing the gap counts; 0 is SAM.

    Returns:
        The direction; g_⊥ is g where G vanishes.
    """
    aside = orthogonal(gradient, perturbed)
    return {name: value - alpha * aside[name] for name, value in perturbed.items()}
