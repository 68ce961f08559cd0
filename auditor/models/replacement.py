"""Layers of a finished module put in place of others."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def replace_layers(model: nn.Module, kind: type[nn.Module], make: Callable[[], nn.Module]) -> None:
    """Put a new layer in the place of every layer of a kind, one that several places share included.

    Args:
        model: Changed in place.
        kind: What goes; it has no parameters, or they go with it.
        make: A new layer, for each place.
    """
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, kind):
                setattr(module, name, make())
