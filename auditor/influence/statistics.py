"""Precise BatchNorm statistics: a differentiable function of the parameters, not a leftover of the last steps.

S(θ) is the mean over chunks of fixed training rows of each BatchNorm layer's batch mean and (biased) variance at θ.
Everything that is evaluated (validation loss, test loss, a sample's loss when it is scored) reads S(θ), and
derivatives go through it: with running statistics left out of the derivative, influence does not predict
retraining. A BatchNorm layer that is frozen has no part in it: its running statistics are constants.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from auditor.influence.attention import plain_attention
from auditor.sam.network import Network
from auditor.sam.perturbation import Tensors


class PreciseStatistics:
    """S(θ) with its derivatives, in the memory of one chunk.

    Args:
        network: The model.
        chunks: Inputs of the fixed rows, each [r, ...] of nearly one size; none for running statistics, which then are
            constants among the buffers.

    Raises:
        ValueError: A BatchNorm layer has no weight and bias to fold statistics into.
    """

    def __init__(self, network: Network, chunks: Sequence[Tensor]) -> None:
        self.network = network
        self.chunks = chunks if network.norms else ()
        for name, module in network.norms.items() if self.chunks else ():
            if not module.affine:
                raise ValueError(f"BatchNorm layer {name} has no weight and bias, which precise statistics need")

    def value(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> Tensors:
        """S(θ): names `<layer>.mean` and `<layer>.var`, each [channels]; empty without BatchNorm."""
        with torch.no_grad():
            return _mean(self._of_chunk(parameters, buffers, chunk) for chunk in self.chunks)

    def pullback(
        self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], cotangent: Mapping[str, Tensor]
    ) -> Tensors:
        """(∂S/∂θ)ᵀ cotangent, of the parameters' names and shapes."""
        total = {name: torch.zeros_like(value) for name, value in parameters.items()}
        for chunk in self.chunks:
            leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
            statistics = self._of_chunk(leaves, buffers, chunk)
            product = torch.stack([(cotangent[name] * value).sum() for name, value in statistics.items()]).sum()
            if not product.requires_grad:  # all that comes before these layers is frozen
                continue
            # The last layers come after every BatchNorm and have no part in its statistics.
            gradients = torch.autograd.grad(product, list(leaves.values()), allow_unused=True)
            for name, gradient in zip(leaves, gradients, strict=True):
                if gradient is not None:
                    total[name] += gradient / len(self.chunks)
        return total

    def pushforward(
        self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], tangent: Mapping[str, Tensor]
    ) -> tuple[Tensors, Tensors]:
        """S(θ) and (∂S/∂θ) tangent."""

        def along(chunk: Tensor) -> tuple[Tensors, Tensors]:
            value, derivative, *_ = jvp(
                lambda point: self._of_chunk(point, buffers, chunk), (dict(parameters),), (dict(tangent),)
            )
            return value, derivative

        with torch.no_grad(), plain_attention():
            pairs = [along(chunk) for chunk in self.chunks]
        return _mean(value for value, _ in pairs), _mean(derivative for _, derivative in pairs)

    def _of_chunk(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], chunk: Tensor) -> Tensors:
        chunk = self.network.quick(chunk)
        self.network.model.eval()  # dropout stays off
        for module in self.network.norms.values():
            module.train()
        scratch = {key: torch.zeros_like(buffers[key]) for key in self.network.running_keys(buffers)}
        counted = {key: value.clone() for key, value in buffers.items() if key.endswith("num_batches_tracked")}
        with _captured(self.network) as statistics:
            functional_call(self.network.model, {**buffers, **counted, **scratch, **parameters}, (chunk,))
        return statistics


def fold(
    network: Network,
    parameters: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    statistics: Mapping[str, Tensor],
) -> Tensors:
    """Parameters and buffers under which evaluation mode normalises with the given statistics.

    A BatchNorm layer's weight and bias become w / √(var + eps) and bias − mean · w / √(var + eps), its running
    statistics 0 and 1 − eps: the layer's own fused kernel then computes the same numbers, and their derivatives in
    the statistics, which the kernel itself does not know.

    Args:
        network: The model.
        parameters: θ.
        buffers: Its buffers.
        statistics: As `PreciseStatistics.value` gives them; empty to evaluate with the running ones.

    Returns:
        One mapping for `Network.evaluate`.
    """
    folded = {**buffers, **parameters}
    if not statistics:
        return folded
    for name, module in network.norms.items():
        mean, variance = statistics[f"{name}.mean"], statistics[f"{name}.var"]
        scale = folded[f"{name}.weight"] * torch.rsqrt(variance + module.eps)
        folded[f"{name}.weight"] = scale
        folded[f"{name}.bias"] = folded[f"{name}.bias"] - mean * scale
        folded[f"{name}.running_mean"] = torch.zeros_like(mean)
        folded[f"{name}.running_var"] = torch.full_like(variance, 1.0 - module.eps)
    return folded


def with_running(buffers: Mapping[str, Tensor], statistics: Mapping[str, Tensor]) -> Tensors:
    """Buffers whose running statistics are the precise ones: a module loaded with them needs no folding."""
    after = dict(buffers)
    for key, value in statistics.items():
        layer, _, kind = key.rpartition(".")
        after[f"{layer}.running_{kind}"] = value
    return after


@contextmanager
def _captured(network: Network) -> Iterator[Tensors]:
    statistics: Tensors = {}

    def capture(name: str) -> object:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            del module
            inputs = arguments[0]
            axes = [axis for axis in range(inputs.dim()) if axis != 1]
            mean = inputs.mean(axes, keepdim=True)
            statistics[f"{name}.mean"] = mean.flatten()
            # Tensor.var takes seven times as long on a CPU, and its derivative as well.
            statistics[f"{name}.var"] = (inputs - mean).square().mean(axes)

        return hook

    handles = [
        module.register_forward_pre_hook(capture(name))  # type: ignore[arg-type]
        for name, module in network.norms.items()
    ]
    try:
        yield statistics
    finally:
        for handle in handles:
            handle.remove()


def _mean(values: Iterable[Tensors]) -> Tensors:
    total: Tensors = {}
    count = 0
    for value in values:
        total = {name: total[name] + entry if total else entry for name, entry in value.items()}
        count += 1
    return {name: entry / count for name, entry in total.items()}
