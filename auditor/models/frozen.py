"""Parameters that training leaves as they are, by patterns of their names."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

_SHOWN = 3
"""Names in a message."""


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Take the parameters whose names match any pattern out of training: `requires_grad` becomes False.

    Args:
        model: Changed in place.
        patterns: As `fnmatch` reads them: `0.*`, `stem.*.weight`.

    Raises:
        ValueError: A pattern matches no parameter, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
            raise ValueError(f"model.frozen {pattern!r} matches no parameter of the model ({shown})")
    for name, value in model.named_parameters(remove_duplicate=False):
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            value.requires_grad_(False)
    if patterns and not any(value.requires_grad for value in model.parameters()):
        raise ValueError(f"model.frozen {list(patterns)} leaves no parameter of the model to train")
