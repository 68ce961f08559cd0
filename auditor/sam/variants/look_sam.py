"""LookSAM (Liu et al. 2022, arXiv 2203.02714, "Towards Efficient and Scalable Sharpness-Aware Minimization").

Every k-th step, the first one included, is SAM's, and keeps what SAM added to the gradient: the part of G that is
orthogonal to g,

    s = G − ⟨G, ĝ⟩ ĝ,    ĝ = g / ‖g‖₂.

The steps in between have no second pass: their direction is g + α (‖g‖ / ‖s‖) s. With several micro-batches a step, s
is their mean, and each in-between direction scales it by the length of its own g.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from torch import Tensor

from auditor.sam.perturbation import Past, Perturbation, Tensors, forgetful, global_norm, inverse, orthogonal, zeros
from auditor.sam.variants.sam import sam_ascent


def look_sam(rho: float, alpha: float = 0.7, period: int = 5) -> Perturbation:
    """SAM every `period` steps, and what it added there in between."""

    def turn(step: int) -> Perturbation:
        if step % period:
            return replace(always, descent=partial(looking_descent, alpha=alpha), remember=kept, perturbs=False)
        return replace(always, remember=forgetful(sharpness))

    ascent = forgetful(partial(sam_ascent, rho=rho))
    always = Perturbation(ascent, initial_memory=zeros, turns=turn, period=period)
    return turn(0)


def looking_descent(
    gradient: Mapping[str, Tensor], perturbed: Mapping[str, Tensor], past: Past, alpha: float
) -> Tensors:
    """G + α (‖g‖ / ‖s‖) s.

    Args:
        gradient: g, at θ.
        perturbed: Not used.
        past: Holds s.
        alpha: α; 0 is plain gradient descent in between.

    Returns:
        The direction; g where s vanishes.
    """
    del perturbed
    scale = alpha * global_norm(gradient.values()) * inverse(global_norm(past.memory.values()))
    return {name: value + scale * past.memory[name] for name, value in gradient.items()}


def sharpness(gradient: Mapping[str, Tensor], perturbed: Mapping[str, Tensor]) -> Tensors:
    """s, the part of G that is orthogonal to g.

    Args:
        gradient: g, at θ.
        perturbed: G, at θ + ε.

    Returns:
        What `past` holds at the next step; G where g vanishes.
    """
    return orthogonal(perturbed, gradient)


def kept(gradient: Mapping[str, Tensor], perturbed: Mapping[str, Tensor], past: Past) -> Tensors:
    """S as it is."""
    del gradient, perturbed
    return dict(past.memory)
