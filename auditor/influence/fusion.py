"""BatchNorm layers as a part of the layers before them, for evaluation: one pass over the activations less for each.

A BatchNorm layer that evaluates is y = s x + t with s = w / √(var + eps) and t = b − mean · s for each channel. Where x
is what a convolution or a linear layer has just computed, and nobody else reads it, that layer computes y itself with
its weights times s and its bias times s plus t. The derivative of a loss along a tangent is the same one: it goes on
through s and t, once for a direction and not once for a sample.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from auditor.sam.network import Network
from auditor.sam.perturbation import Tensors
from auditor.sam.trial import near

_AGREEMENT = 1e-3
"""Largest difference of logits in a trial, relative to the largest: far above rounding, far below a second reader's."""


@dataclass(frozen=True)
class Fusion:
    """A network with some of its BatchNorm layers gone, and what its parameters are."""

    network: Network
    pairs: tuple[tuple[str, str], ...]
    """Names of a layer and of the BatchNorm layer that it has taken in."""
    epsilons: tuple[float, ...]
    """Of each BatchNorm layer."""

    @classmethod
    def none(cls, network: Network) -> Fusion:
        """The network as it is."""
        return cls(network, (), ())

    def __call__(self, values: Mapping[str, Tensor]) -> Tensors:
        """Parameters and buffers of the fused network from those of the other one."""
        fused = dict(values)
        for (layer, norm), epsilon in zip(self.pairs, self.epsilons, strict=True):
            mean, variance = values[f"{norm}.running_mean"], values[f"{norm}.running_var"]
            scale = values[f"{norm}.weight"] * torch.rsqrt(variance + epsilon)
            shift = values[f"{norm}.bias"] - mean * scale
            weight, bias = values[f"{layer}.weight"], values.get(f"{layer}.bias")
            fused[f"{layer}.weight"] = weight * scale.view(-1, *(1 for _ in weight.shape[1:]))
            fused[f"{layer}.bias"] = shift if bias is None else bias * scale + shift
            for kind in _PARTS:
                fused.pop(f"{norm}.{kind}", None)
        return fused

    def parts(self) -> Iterator[tuple[set[str], set[str]]]:
        """For each pair the names of what it makes, and of what of the other network it is made from."""
        for layer, norm in self.pairs:
            names = {f"{layer}.weight", f"{layer}.bias"}
            yield names, names | {f"{norm}.{kind}" for kind in _PARTS}


_PARTS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def fusion_of(network: Network, values: Mapping[str, Tensor], inputs: Tensor) -> Fusion:
    """Take in what can be, each pair found and judged by a trial.

    Args:
        network: The model; not changed.
        values: Its parameters and buffers; the trial is near them, not at them: zeros would hide a second reader.
        inputs: A few samples, [m, ...].
    """
    generator = torch.Generator().manual_seed(0)
    tried = near(values, generator)
    try:
        with torch.no_grad():
            pairs = _neighbours(network, tried, inputs)
            expected = network.evaluate(tried, {}, inputs)

            def right(some: list[tuple[str, str]]) -> bool:
                fusion = _fused(network, some)
                found = fusion.network.evaluate(fusion(tried), {}, inputs)
                return bool((found - expected).abs().max() <= _AGREEMENT * expected.abs().max())

            if not right(pairs):
                pairs = [pair for pair in pairs if right([pair])]
                if not right(pairs):
                    pairs = []
            return _fused(network, pairs) if pairs else Fusion.none(network)
    except Exception:  # a module may refuse to be copied, or to be called so, in any way there is
        return Fusion.none(network)


def _neighbours(network: Network, values: Mapping[str, Tensor], inputs: Tensor) -> list[tuple[str, str]]:
    """BatchNorm layers whose input is what a layer has just computed, both of them used once."""
    made: dict[int, tuple[str, Tensor, int]] = {}
    used: Counter[str] = Counter()
    pairs: list[tuple[str, str]] = []

    def made_by(name: str) -> Callable[..., None]:
        def seen(_: nn.Module, __: Any, output: Tensor) -> None:
            used[name] += 1
            made[id(output)] = name, output, output._version  # kept, so that no other tensor has its id

        return seen

    def read_by(name: str) -> Callable[..., None]:
        def seen(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            used[name] += 1
            before, output, version = made.get(id(arguments[0]), ("", arguments[0], -1))
            if before and output._version == version:
                pairs.append((before, name))

        return seen

    layers, norms = {}, {}
    for name, module in network.model.named_modules():
        if type(module) in (nn.Conv2d, nn.Linear) and f"{name}.weight" in values:
            layers[name] = module
        elif isinstance(module, _BatchNorm) and all(f"{name}.{kind}" in values for kind in _PARTS[:4]):
            norms[name] = module
    with _hooks(
        *(module.register_forward_hook(made_by(name)) for name, module in layers.items()),
        *(module.register_forward_pre_hook(read_by(name)) for name, module in norms.items()),
    ):
        network.evaluate(values, {}, inputs)
    return [pair for pair in pairs if all(used[name] == 1 for name in pair)]


def _fused(network: Network, pairs: list[tuple[str, str]]) -> Fusion:
    model = copy.deepcopy(network.model)
    epsilons = []
    for layer, norm in pairs:
        before: Any = model.get_submodule(layer)
        after: Any = model.get_submodule(norm)
        epsilons.append(after.eps)
        model.set_submodule(norm, nn.Identity())
        if before.bias is None:
            before.bias = nn.Parameter(before.weight.new_zeros(len(before.weight)))
    return Fusion(Network(model), tuple(pairs), tuple(epsilons))


@contextmanager
def _hooks(*handles: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
