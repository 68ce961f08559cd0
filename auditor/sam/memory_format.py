"""Channels innermost: the memory format of images and kernels in which convolutions take the least time.

On CPUs a pass of a network with BatchNorm, or with no normalisation, takes 10 to 30 % less time in it
(docs/benchmarks/training.md). A network need not bear it: one that takes a view of what a convolution gave fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import Conv2d

from auditor.sam.trial import near

_ROWS = 2
_AGREEMENT = 1e-2
"""Largest difference of logits in a trial, relative to the largest: above rounding, below numbers of other places."""


def innermost(values: Tensor) -> Tensor:
    """Images [m, C, H, W] and kernels with their channels innermost in memory, other tensors as they are."""
    return values.contiguous(memory_format=torch.channels_last) if values.dim() == 4 else values


def alike(values: Tensor, like: Tensor) -> Tensor:
    """The same values in the memory format of others of their shape: kernels that meet two are several times slower."""
    if values.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous():
        return innermost(values)
    return values.contiguous()


def gains_innermost(model: nn.Module, device: torch.device) -> bool:
    """Whether there are convolutions, and on a CPU no GroupNorm, whose derivatives lose what convolutions gain."""
    modules = list(model.modules())
    loses = device.type == "cpu" and any(isinstance(module, nn.GroupNorm) for module in modules)
    return not loses and any(isinstance(module, Conv2d) for module in modules)


def bears_innermost(model: nn.Module, shape: Iterable[int]) -> bool:
    """Whether a module computes the same from images and kernels with their channels innermost, and trains on them.

    Args:
        model: Its parameters and buffers stay as they are. All that is random is drawn from seeds, so that workers that
            build the same module find the same.
        shape: [C, H, W].
    """
    generator = torch.Generator().manual_seed(0)
    given = {name: value.detach() for name, value in (*model.named_parameters(), *model.named_buffers())}
    tried = near(given, generator)
    moved = {name: innermost(value) for name, value in tried.items()}
    like = next(iter(tried.values()))
    images = torch.randn(_ROWS, *shape, generator=generator).to(like.device, like.dtype)
    before = model.training

    def logits(values: Mapping[str, Tensor], inputs: Tensor, training: bool) -> Tensor:
        model.train(training)
        # BatchNorm moves its statistics where it finds them.
        found: Tensor = functional_call(model, {name: value.clone() for name, value in values.items()}, (inputs,))
        return found

    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[like.device] if like.is_cuda else []):
            torch.manual_seed(0)
            logits(moved, innermost(images), training=True)  # dropout leaves nothing to compare
            expected = logits(tried, images, training=False)
            found = logits(moved, innermost(images), training=False)
        return bool((found - expected).abs().max() <= _AGREEMENT * expected.abs().max())
    except Exception:  # a module may refuse in any way there is
        return False
    finally:
        model.train(before)
