"""Derivatives along many tangents at one point, from one forward and one backward pass for all of them.

A layer's weights W act on a sample k through x_k, its input there, and δ_k = ∂l_k/∂y_k, that of its output. The
sample's gradient in W is a product of the two, of one layer and a few samples at a time, and its inner products with
the tangents of all directions are one matrix product:

    ⟨∇l_k, v_q⟩ = Σ_layers ⟨x_k ⊗ δ_k, V_q⟩

Measured on a CPU (docs/benchmarks/scoring.md), a few tangents together cost about six forward passes, and each further
one a few hundredths of a pass, where a dual forward pass each costs two to three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from auditor.influence.attention import plain_attention
from auditor.influence.folded import Folded, wide

_Moments = tuple[Any, Any]
"""Mean and variance, [channels], that BatchNorm normalises with; None for other layers."""

_NUMBERS = 2**24
"""Numbers in the gradients, and in what they are made of, that exist at a time."""


class Contraction:
    """⟨∇l_k, v_q⟩ for samples k and all tangents q.

    It is right only for networks whose trainable parameters all belong to layers of `LAYERS` that see samples one a
    row; `Derivatives` makes sure of that.

    Args:
        folded: A point and tangents.
    """

    def __init__(self, folded: Folded) -> None:
        self._folded = folded
        owners = {name.rpartition(".")[0] for name in folded.tangents}
        modules = dict(folded.network.model.named_modules())
        self._layers = {name: modules[name] for name in sorted(owners) if type(modules[name]) in LAYERS}

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Derivatives of a batch.

        Args:
            inputs: [m, ...].
            labels: [m].

        Returns:
            [m, Q]
        """
        folded = self._folded
        found = torch.zeros(len(labels), len(folded), dtype=wide(folded.dtype), device=inputs.device)
        roots: list[Tensor] = []

        def contract(name: str, given: Tensor, toward: Tensor) -> None:
            for rows, weight, bias in self._gradients(name, given, toward):
                for kind, gradient in (("weight", weight), ("bias", bias)):
                    if (tangent := folded.tangents.get(f"{name}.{kind}")) is not None:
                        found[rows] += gradient.flatten(1) @ tangent.flatten(1).T

        laid_out = folded.given(inputs)
        with plain_attention(), torch.enable_grad(), self._watched(contract, roots):
            values = {name: value.detach() for name, value in folded.values.items()}
            logits = folded.network.evaluate(values, folded.constants, laid_out)
            loss = functional.cross_entropy(logits.to(wide(logits.dtype)), labels, reduction="sum")
            torch.autograd.grad(loss, roots, allow_unused=True)
        return found

    @contextmanager
    def _watched(self, contract: Callable[[str, Tensor, Tensor], None], roots: list[Tensor]) -> Iterator[None]:
        """Every layer's output tells `contract` its δ as soon as the backward pass knows it."""

        def watch(name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
            def seen(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
                given, version = arguments[0].detach(), arguments[0]._version
                if not output.requires_grad:
                    roots.append(output := output.detach().requires_grad_())
                    output = output.clone()  # a leaf could not be changed in place by the layer behind

                def told(toward: Tensor) -> None:
                    if given._version != version:
                        raise UncoveredError(f"the input of {name} was changed in place")
                    with torch.no_grad():
                        contract(name, given, toward)

                output.register_hook(told)  # type: ignore[no-untyped-call]
                return output

            return seen

        handles = [layer.register_forward_hook(watch(name)) for name, layer in self._layers.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _gradients(self, name: str, given: Tensor, toward: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Some rows at a time: which, and the gradients of each in weight and bias, [r, ...]."""
        layer = self._layers[name]
        numbers, gradients = LAYERS[type(layer)]
        size = max(1, _NUMBERS // numbers(layer, given, toward))
        constants = self._folded.constants
        moments = constants.get(f"{name}.running_mean"), constants.get(f"{name}.running_var")
        for first in range(0, len(given), size):
            rows = slice(first, first + size)
            yield rows, *gradients(layer, moments, given[rows], toward[rows])


class UncoveredError(Exception):
    """A network does what `Contraction` has no rule for."""


def _linear(_: nn.Linear, __: _Moments, given: Tensor, toward: Tensor) -> tuple[Tensor, Tensor]:
    given, toward = (each.reshape(len(each), -1, each.shape[-1]) for each in (given, toward))
    return toward.transpose(1, 2) @ given, toward.sum(1)


def _linear_numbers(layer: nn.Linear, *_: Tensor) -> int:
    return layer.weight.numel()


def _convolution(layer: nn.Conv2d, _: _Moments, given: Tensor, toward: Tensor) -> tuple[Tensor, Tensor]:
    rows, groups = len(given), layer.groups
    if layer.kernel_size == (1, 1) and layer.stride == (1, 1) and not any(_padding(layer)):
        patches = given.flatten(2)
    else:
        patches = functional.unfold(given, layer.kernel_size, layer.dilation, _padding(layer), layer.stride)
    patches = patches.reshape(rows, groups, -1, patches.shape[-1])
    outputs = toward.flatten(2)
    weight = outputs.reshape(rows, groups, -1, outputs.shape[-1]) @ patches.transpose(2, 3)
    return weight, outputs.sum(2)


def _convolution_numbers(layer: nn.Conv2d, _: Tensor, toward: Tensor) -> int:
    inside = layer.weight[0].numel() * layer.groups
    return layer.weight.numel() + inside * toward[0, 0].numel()


def _padding(layer: nn.Conv2d) -> tuple[int, ...]:
    return (0, 0) if isinstance(layer.padding, str) else layer.padding


def _batch_norm(
    layer: nn.modules.batchnorm._BatchNorm, moments: _Moments, given: Tensor, toward: Tensor
) -> tuple[Tensor, Tensor]:
    mean, variance = moments
    shape = (-1, *(1 for _ in given.shape[2:]))
    normed = (given - mean.view(shape)) * torch.rsqrt(variance + layer.eps).view(shape)
    return _over_places(toward * normed), _over_places(toward)


def _group_norm(layer: nn.GroupNorm, _: _Moments, given: Tensor, toward: Tensor) -> tuple[Tensor, Tensor]:
    normed = functional.group_norm(given, layer.num_groups, eps=layer.eps)
    return _over_places(toward * normed), _over_places(toward)


def _layer_norm(layer: nn.LayerNorm, _: _Moments, given: Tensor, toward: Tensor) -> tuple[Tensor, Tensor]:
    normed = functional.layer_norm(given, layer.normalized_shape, eps=layer.eps)
    shape = (len(given), -1, *layer.normalized_shape)
    return (toward * normed).reshape(shape).sum(1), toward.reshape(shape).sum(1)


def _over_places(values: Tensor) -> Tensor:
    """[r, channels] from [r, channels, ...]."""
    return values.reshape(*values.shape[:2], -1).sum(2)


def _input_numbers(_: nn.Module, given: Tensor, __: Tensor) -> int:
    return 2 * given[0].numel()


_Gradients = Callable[..., tuple[Tensor, Tensor]]

LAYERS: Mapping[type[nn.Module], tuple[Callable[..., int], _Gradients]] = {
    nn.Linear: (_linear_numbers, _linear),
    nn.Conv2d: (_convolution_numbers, _convolution),
    nn.BatchNorm1d: (_input_numbers, _batch_norm),
    nn.BatchNorm2d: (_input_numbers, _batch_norm),
    nn.GroupNorm: (_input_numbers, _group_norm),
    nn.LayerNorm: (_input_numbers, _layer_norm),
}
"""By layer: how many numbers a row's gradient takes to form, and the gradients of a few rows."""
