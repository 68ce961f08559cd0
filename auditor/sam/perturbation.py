"""SAM's perturbations: pure functions from (parameters, gradient) to ε."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
"""Named tensors: parameters, gradients, perturbations or buffers of one network."""

PerturbationFunction = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensors]
"""(parameters, gradient of the micro-batch) → ε, each of the parameters' names and shapes."""


def global_norm(tensors: Iterable[Tensor], order: float = 2.0) -> Tensor:
    """The vector norm of all entries together, as a scalar tensor."""
    norms = torch.stack([torch.linalg.vector_norm(tensor, order) for tensor in tensors])
    total: Tensor = torch.linalg.vector_norm(norms, order)
    return total


def sam_perturbation(
    parameters: Mapping[str, Tensor], gradient: Mapping[str, Tensor], rho: float, p: float = 2.0
) -> Tensors:
    """The maximiser of ⟨g, ε⟩ over the ball ‖ε‖_p ≤ ρ (Foret et al. 2021, equation 2).

    ε = ρ sign(g) |g|^{q−1} / (‖g‖_q^q)^{1/p} with 1/p + 1/q = 1; for p = 2 this is ρ g / ‖g‖₂.

    Args:
        parameters: Not used by plain SAM; variants that scale by the parameters need them.
        gradient: Gradient of the micro-batch loss.
        rho: Radius ρ.
        p: Norm of the ball, above 1.

    Returns:
        ε; zero when the gradient is zero, or so small (norm below 1e-19 in float32) that its direction is rounding.
    """
    del parameters
    if p == 2.0:
        scale = rho * _inverse(global_norm(gradient.values()))
        return {name: scale * value for name, value in gradient.items()}
    q = p / (p - 1.0)
    # ε does not change with the size of g: scaled to at most 1, no power of it vanishes. A constant in derivatives.
    largest = _inverse(torch.stack([value.detach().abs().max() for value in gradient.values()]).max())
    scaled = {name: value * largest for name, value in gradient.items()}
    inverse = _inverse(global_norm(scaled.values(), q))

    def power(value: Tensor) -> Tensor:
        # At zero the power has an infinite slope for p > 2, which would spoil every derivative of ε.
        base = torch.where(value == 0, 1.0, value.abs() * inverse)
        return torch.where(value == 0, 0.0, rho * value.sign() * base.pow(q - 1.0))

    return {name: power(value) for name, value in scaled.items()}


def make_perturbation(name: str, rho: float, p: float = 2.0) -> PerturbationFunction:
    """A perturbation by name, with its settings bound.

    Raises:
        ValueError: The name is unknown.
    """
    if name == "sam":
        return partial(sam_perturbation, rho=rho, p=p)
    raise ValueError(f"perturbation {name!r} is not one of sam")


def _inverse(norm: Tensor) -> Tensor:
    """1 / norm, and 0 for a gradient so small that its squares vanish: rounding would decide where it points."""
    floor = torch.finfo(norm.dtype).tiny ** 0.5
    return torch.where(norm > floor, 1.0 / norm.clamp_min(floor), 0.0)
