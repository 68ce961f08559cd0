"""Activations and normalisation layers by name, smooth by default: what is smooth can be differentiated through."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
}


def activation(name: str) -> nn.Module:
    """A new activation layer.

    Raises:
        ValueError: The name is unknown.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} is not one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def normalisation(name: str, channels: int) -> nn.Module:
    """A new normalisation layer for images of some channels: `batch`, `group` (groups of up to 8) or `none`.

    Raises:
        ValueError: The name is unknown.
    """
    match name:
        case "batch":
            return nn.BatchNorm2d(channels)
        case "group":
            groups = next(size for size in (8, 4, 2, 1) if channels % size == 0)
            return nn.GroupNorm(groups, channels)
        case "none":
            return nn.Identity()
    raise ValueError(f"norm {name!r} is not one of batch, group, none")
