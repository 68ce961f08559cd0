"""Small networks in float64 for closed forms and finite differences."""

from __future__ import annotations

import torch

from auditor.models import build_model
from auditor.sam import Network

F64 = torch.float64
SHAPE, CLASSES = (1, 4, 4), 3


def network(norm="batch", activation="gelu", seed=0):
    """A small convolutional network whose BatchNorm weights are not all one."""
    model = build_model(
        "small_cnn", {"widths": [3, 4], "norm": norm, "activation": activation}, SHAPE, CLASSES, seed, F64
    )
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=F64))
    return Network(model)


def samples(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, *SHAPE, generator=generator, dtype=F64), torch.randint(
        CLASSES, (size,), generator=generator
    )


def tangent(parameters, seed=7):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator, dtype=F64) for name, value in parameters.items()}


def moved(parameters, direction, amount):
    return {name: value + amount * direction[name] for name, value in parameters.items()}


def inner(left, right):
    return float(sum((left[name] * right[name]).sum() for name in left))
