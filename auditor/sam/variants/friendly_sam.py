"""Friendly SAM (Li et al. 2024, arXiv 2403.12350, "Friendly Sharpness-Aware Minimization") and its authors' code.

ε = ρ (g − σ e) / ‖g − σ e‖₂, where e is the exponential moving average of the steps' mean gradients before this one:

    e ← λ e + (1 − λ) g    (the first step's g is e as it is)

The average stands for the gradient of the whole training set. What is left of g without it is the noise of the batch,
and the ascent along that alone is the part that makes SAM generalise better, by the authors' account. With several
micro-batches a step each has an ε of its own, and they share e.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from auditor.sam.perturbation import Past, Perturbation, Tensors
from auditor.sam.variants.sam import sam_ascent

_AVERAGE = "average"


def friendly_sam(rho: float, sigma: float = 1.0, decay: float = 0.9) -> Perturbation:
    """SAM that ascends along what is left of the gradient without its average."""

    def turn(step: int) -> Perturbation:
        # Its first step has no average yet.
        kept = 0.0 if step == 0 else decay
        ascent = partial(friendly_ascent, rho=rho, sigma=sigma)
        return Perturbation(ascent, initial_memory=no_average, remember=partial(next_average, decay=kept), turns=turn)

    return turn(0)


def friendly_ascent(
    parameters: Mapping[str, Tensor], gradient: Mapping[str, Tensor], past: Past, rho: float, sigma: float
) -> Tensors:
    """SAM's ε of g − σ e.

    Args:
        parameters: θ.
        gradient: g, of the micro-batch loss.
        past: Holds e.
        rho: Radius ρ.
        sigma: σ, how much of the average is left out; 0 is SAM.

    Returns:
        ε; zero where `sam_ascent` is.
    """
    noise = {name: value - sigma * past.memory[f"{_AVERAGE}.{name}"] for name, value in gradient.items()}
    return sam_ascent(parameters, noise, rho)


def next_average(gradient: Mapping[str, Tensor], perturbed: Mapping[str, Tensor], past: Past, decay: float) -> Tensors:
    """λ e + (1 − λ) g.

    Args:
        gradient: g, at θ.
        perturbed: Not used.
        past: Holds e.
        decay: λ.

    Returns:
        What `past` holds at the next step.
    """
    del perturbed
    return {
        f"{_AVERAGE}.{name}": decay * past.memory[f"{_AVERAGE}.{name}"] + (1.0 - decay) * value
        for name, value in gradient.items()
    }


def no_average(parameters: Mapping[str, Tensor]) -> Tensors:
    """An average of zero."""
    return {f"{_AVERAGE}.{name}": torch.zeros_like(value) for name, value in parameters.items()}
