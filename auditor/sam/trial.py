"""Values near a network's own, to try something of it on before it is relied upon."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def near(values: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Parameters and buffers at a distance of a tenth of what layers are initialised with; scalars and variances stay.

    At the values themselves a layer of zeros, as networks begin with, would hide what lies before it.
    """

    def moved(name: str, value: Tensor) -> Tensor:
        if not value.is_floating_point() or not value.dim() or name.endswith(".running_var"):
            return value
        drawn = torch.randn(value.shape, generator=generator, dtype=value.dtype).to(value.device)
        return torch.add(value, drawn, alpha=0.1 * math.sqrt(len(value) / value.numel()))

    return {name: moved(name, value) for name, value in values.items()}
