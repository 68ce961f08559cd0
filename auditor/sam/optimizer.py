"""The base optimizers, which SAM gives its direction to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from auditor.sam.adamw import AdamW, adamw_step
from auditor.sam.perturbation import Tensors, zeros
from auditor.sam.sgd import SGD, sgd_step
from auditor.sam.state import State

Optimizer = SGD | AdamW


def optimizer_at(settings: Mapping[str, Any], learning_rate: float, step: int) -> Optimizer:
    """The numbers of one step.

    Args:
        settings: `train.optimizer` of the configuration, its `name` among them; what is about the schedule is not read.
        learning_rate: η of the step.
        step: Counted from 0.

    Raises:
        ValueError: There is no optimizer of that name.
        KeyError: A setting is missing.
    """
    match settings["name"]:
        case "sgd":
            return SGD(learning_rate, settings["momentum"], settings["weight_decay"], settings["nesterov"])
        case "adamw":
            names = ("beta1", "beta2", "epsilon", "weight_decay")
            return AdamW(learning_rate, step, **{name: settings[name] for name in names})
    raise ValueError(f"optimizer {settings['name']!r} is not one of sgd, adamw")


def optimizer_step(state: State, gradient: Mapping[str, Tensor], optimizer: Optimizer) -> State:
    """The next state, its buffers and memory as they are; see `sgd_step` and `adamw_step`."""
    return (
        adamw_step(state, gradient, optimizer) if isinstance(optimizer, AdamW) else sgd_step(state, gradient, optimizer)
    )


def second_moment(settings: Mapping[str, Any], parameters: Mapping[str, Tensor]) -> Tensors:
    """The second moment before training: zeros for AdamW, nothing for SGD."""
    if settings["name"] != "adamw":
        return {}
    return zeros(parameters)
