"""SAM (Foret et al. 2021, "Sharpness-Aware Minimization for Efficiently Improving Generalization", equation 2).

ε = ρ sign(g) |g|^{q−1} / (‖g‖_q^q)^{1/p} with 1/p + 1/q = 1; for p = 2 this is ρ g / ‖g‖₂.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from auditor.sam.perturbation import Perturbation, Tensors, forgetful, global_norm, inverse


def sam(rho: float, p: float = 2.0) -> Perturbation:
    """SAM over the ball ‖ε‖_p ≤ ρ."""
    return Perturbation(forgetful(partial(sam_ascent, rho=rho, p=p)))


def sam_ascent(parameters: Mapping[str, Tensor], gradient: Mapping[str, Tensor], rho: float, p: float = 2.0) -> Tensors:
    """The maximiser of ⟨g, ε⟩ over the ball ‖ε‖_p ≤ ρ.

    Args:
        parameters: Not used.
        gradient: g, of the micro-batch loss.
        rho: Radius ρ.
        p: Norm of the ball, above 1.

    Returns:
        ε; zero when the gradient is zero, or so small (norm below 1e-19 in float32) that its direction is rounding.
    """
    del parameters
    if p == 2.0:
        scale = rho * inverse(global_norm(gradient.values()))
        return {name: scale * value for name, value in gradient.items()}
    q = p / (p - 1.0)
    # ε does not change with the size of g: scaled to at most 1, no power of it vanishes. A constant in derivatives.
    largest = inverse(torch.stack([value.detach().abs().max() for value in gradient.values()]).max())
    scaled = {name: value * largest for name, value in gradient.items()}
    unit = inverse(global_norm(scaled.values(), q))

    def power(value: Tensor) -> Tensor:
        # At zero the power has an infinite slope for p > 2, which would spoil every derivative of ε.
        base = torch.where(value == 0, 1.0, value.abs() * unit)
        return torch.where(value == 0, 0.0, rho * value.sign() * base.pow(q - 1.0))

    return {name: power(value) for name, value in scaled.items()}
