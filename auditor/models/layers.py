"""Activations and normalisation layers by name, smooth by default: what is smooth can be differentiated through."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional


class GELU(nn.GELU):
    """`torch.nn.GELU`, in one order of memory for images whose channels are innermost.

    On CPUs torch has a quick kernel for what lies in order, and another for all else that takes up to twice as long.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Of any shape."""
        if input.dim() != 4 or input.stride(1) != 1:
            return functional.gelu(input, approximate=self.approximate)
        return functional.gelu(input.permute(0, 2, 3, 1), approximate=self.approximate).permute(0, 3, 1, 2)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": GELU,
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


def pooling(name: str, size: int | None) -> nn.Module:
    """A new pooling layer for images, `average` or `max`, over squares of some size or over the whole image.

    Raises:
        ValueError: The name is unknown.
    """
    match name:
        case "average":
            return nn.AdaptiveAvgPool2d(1) if size is None else nn.AvgPool2d(size)
        case "max":
            return nn.AdaptiveMaxPool2d(1) if size is None else nn.MaxPool2d(size)
    raise ValueError(f"pooling {name!r} is not one of average, max")
