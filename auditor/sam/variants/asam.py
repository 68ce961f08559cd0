"""ASAM (Kwon et al. 2021, "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning").

ε = ρ T² g / ‖T g‖₂ with T = |θ| + η, elementwise: large parameters move further, so that rescaling the weights of
neighbouring layers does not change what is sharp. T is the same for weights and biases.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from auditor.sam.perturbation import Perturbation, Tensors, forgetful, global_norm, inverse


def asam(rho: float, eta: float = 0.01) -> Perturbation:
    """ASAM with elementwise normalisation."""
    return Perturbation(forgetful(partial(asam_ascent, rho=rho, eta=eta)))


def asam_ascent(parameters: Mapping[str, Tensor], gradient: Mapping[str, Tensor], rho: float, eta: float) -> Tensors:
    """The maximiser of ⟨g, ε⟩ over the ellipsoid ‖T⁻¹ ε‖₂ ≤ ρ.

    Args:
        parameters: θ.
        gradient: g, of the micro-batch loss.
        rho: Radius ρ, relative to the parameters' size.
        eta: η, keeps parameters near zero moving.

    Returns:
        ε; zero when T g is zero or vanishes.
    """
    scales = {name: value.abs() + eta for name, value in parameters.items()}
    scaled = {name: scales[name] * value for name, value in gradient.items()}
    unit = rho * inverse(global_norm(scaled.values()))
    return {name: unit * scales[name] * value for name, value in scaled.items()}
