"""Networks by name, or a user's own by "module:callable"."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from auditor.models.frozen import freeze
from auditor.models.mlp import mlp
from auditor.models.resnet import resnet
from auditor.models.resnet18 import resnet18
from auditor.models.resnet50 import resnet50
from auditor.models.small_cnn import small_cnn
from auditor.models.vit import vit
from auditor.models.whitened_cnn import whitened_cnn
from auditor.models.wide_resnet import wide_resnet

FACTORIES: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "resnet": resnet,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "small_cnn": small_cnn,
    "vit": vit,
    "whitened_cnn": whitened_cnn,
    "wide_resnet": wide_resnet,
}


def find_factory(name: str) -> Callable[..., nn.Module]:
    """The callable behind a model's name.

    Args:
        name: A key of `FACTORIES`, or `module:callable` for anything that can be imported.

    Returns:
        A callable that takes num_classes, and input_shape if it likes, and returns a module.

    Raises:
        ValueError: The name is unknown or cannot be imported.
    """
    if ":" not in name:
        if name not in FACTORIES:
            raise ValueError(f"model.name {name!r} is not one of {', '.join(FACTORIES)} and not module:callable")
        return FACTORIES[name]
    module_name, _, attribute = name.partition(":")
    try:
        found: Callable[..., nn.Module] = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"model.name {name!r} cannot be imported: {error}") from error
    return found


def build_model(
    name: str,
    args: Mapping[str, Any],
    input_shape: tuple[int, ...],
    num_classes: int,
    seed: int,
    dtype: torch.dtype = torch.float32,
    frozen: Sequence[str] = (),
) -> nn.Module:
    """Build a network with initial weights that depend on the seed alone.

    Args:
        name: See `find_factory`.
        args: Keyword arguments of the factory.
        input_shape: Shape of one sample, without the batch.
        num_classes: Width of the output.
        seed: Seeds the initial weights; the global generator is left as it was.
        dtype: Type of parameters and buffers.
        frozen: Patterns of parameters that are not trained: see `freeze`.

    Returns:
        The module, on the CPU, in training mode.

    Raises:
        ValueError: The factory is unknown, refuses its arguments, or returns something that is no module, or the
            patterns do not fit its parameters.
    """
    factory = find_factory(name)
    given = dict(args)
    accepts = inspect.signature(factory).parameters
    if "input_shape" in accepts:
        given["input_shape"] = input_shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = factory(num_classes=num_classes, **given)
        except (TypeError, ValueError) as error:
            raise ValueError(f"model.args do not fit {name!r}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"model.name {name!r} returned {type(model).__name__}, not a torch.nn.Module")
    model = model.to(dtype)
    freeze(model, frozen)
    return model
