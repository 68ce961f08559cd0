"""No perturbation: plain gradient descent, which every variant is with a radius of zero."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from auditor.sam.perturbation import Perturbation, Tensors, forgetful


def sgd() -> Perturbation:
    """One pass a step."""
    return Perturbation(forgetful(no_ascent), perturbs=False)


def no_ascent(parameters: Mapping[str, Tensor], gradient: Mapping[str, Tensor]) -> Tensors:
    """Zero, of the parameters' names and shapes."""
    del gradient
    return {name: torch.zeros_like(value) for name, value in parameters.items()}
