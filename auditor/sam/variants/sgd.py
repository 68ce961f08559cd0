"""No perturbation: plain gradient descent, which every variant is with a radius of zero."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from auditor.sam.perturbation import Perturbation, Tensors, forgetful, zeros


def sgd() -> Perturbation:
    """One pass a step."""
    return Perturbation(forgetful(no_ascent), perturbs=False)


def no_ascent(parameters: Mapping[str, Tensor], gradient: Mapping[str, Tensor]) -> Tensors:
    """Zero, of the parameters' names and shapes."""
    del gradient
    return zeros(parameters)
