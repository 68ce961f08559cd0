"""Given weights fitted to a model: what it takes of them, and what of its last layer starts anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_SHOWN = 3
"""Names in a message."""


@dataclass(frozen=True)
class Fitted:
    """What became of given tensors."""

    taken: dict[str, Tensor]
    """By the model's names, in its types."""
    seeded: tuple[str, ...]
    """Tensors of the last layer that keep the values that the model has."""


def fit(model: nn.Module, given: Mapping[str, Tensor], head: str | None, new_head: bool = False) -> Fitted:
    """Choose a model's parameters and buffers among given tensors, all of which have to find their place.

    Buffers that the model leaves out of its state dict are taken where they are given. A parameter with two names may
    be given by either.

    Args:
        model: Is not changed.
        given: A state dict.
        head: Name of the last linear layer, whose tensors may be missing or have another shape; None without one.
        new_head: Take nothing of the last layer.

    Raises:
        ValueError: Any other tensor is missing, misshapen or surplus, or a number is not finite; the first are named.
    """
    wanted: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    kept = model.state_dict(keep_vars=True)
    name_of = {id(value): name for name, value in wanted.items()}
    aliases = {name: name_of.get(id(value), name) for name, value in kept.items()}
    found = {aliases.get(name, name): value for name, value in given.items()}

    def of_head(name: str) -> bool:
        return head is not None and name.startswith(f"{head}.")

    taken, missing, misshapen, seeded = {}, [], [], []
    for name, own in wanted.items():
        value = found.pop(name, None)
        if value is None and name not in kept:
            continue  # no part of a state dict: what the model makes anew
        if of_head(name) and (new_head or value is None or not _fits(value, own)):
            seeded.append(name)
        elif value is None:
            missing.append(name)
        elif not _fits(value, own):
            misshapen.append(f"{name} {_kind(value)} in place of {_kind(own)}")
        else:
            taken[name] = value.to(own.dtype)
    problems = [
        f"{what} {_first(names)}"
        for what, names in (("lacks", missing), ("has", misshapen), ("has what the model has not:", list(found)))
        if names
    ]
    if problems:
        raise ValueError("; ".join(problems))
    broken = [name for name, value in taken.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise ValueError(f"has numbers that are not finite in {_first(broken)}")
    return Fitted(taken, tuple(seeded))


def put(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy tensors into the parameters and buffers of their names."""
    with torch.no_grad():
        for name, own in (*model.named_parameters(), *model.named_buffers()):
            if name in tensors:
                own.copy_(tensors[name])


def _fits(value: Tensor, own: Tensor) -> bool:
    return value.shape == own.shape and value.is_floating_point() == own.is_floating_point()


def _kind(value: Tensor) -> str:
    shape = list(value.shape)
    return str(shape) if value.is_floating_point() else f"{shape} of integers"


def _first(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
