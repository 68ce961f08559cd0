"""A module as a pure function of parameters and buffers, its BatchNorm statistics returned, not hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from auditor.sam.memory_format import bears_innermost, gains_innermost, innermost
from auditor.sam.perturbation import Tensors


class Network:
    """Runs one module as a pure function.

    Args:
        model: Any module from inputs [m, ...] to logits [m, classes]. Its own parameters are only read by
            `parameters` and `buffers`; its mode is set at every call.
        autocast: The type that convolutions and products of matrices compute in when training (`torch.autocast`); None
            leaves the parameters' own.
    """

    def __init__(self, model: nn.Module, autocast: torch.dtype | None = None) -> None:
        self.model = model
        self.autocast = autocast
        layers = {name: module for name, module in model.named_modules() if isinstance(module, _BatchNorm)}
        self.norms: dict[str, _BatchNorm] = {name: layer for name, layer in layers.items() if not is_frozen(layer)}
        """BatchNorm layers by module name, those that are frozen apart."""
        self._frozen_norms = [layer for layer in layers.values() if is_frozen(layer)]
        self._innermost: dict[tuple[torch.Size, str], bool] = {}

    def parameters(self) -> Tensors:
        """Detached copies of the trainable parameters, in the order of their names.

        A norm over all of them rounds differently in another order, and a checkpoint knows no other one.
        """
        trainable = {name: value for name, value in self.model.named_parameters() if value.requires_grad}
        return {name: trainable[name].detach().clone() for name in sorted(trainable)}

    def buffers(self) -> Tensors:
        """Detached copies of the buffers, parameters that are frozen included."""
        frozen = {name: value for name, value in self.model.named_parameters() if not value.requires_grad}
        return {name: value.detach().clone() for name, value in (*frozen.items(), *self.model.named_buffers())}

    def quick(self, inputs: Tensor) -> Tensor:
        """The same inputs [m, ...] in the memory format that a pass on a CPU takes the least time in.

        On a GPU, where 32 bits were not measured, they are left as they are.
        """
        return innermost(inputs) if inputs.device.type == "cpu" and self.innermost(inputs) else inputs

    def innermost(self, inputs: Tensor) -> bool:
        """Whether convolutions had better be given inputs [m, ...] and kernels with their channels innermost.

        Not in 64 bits, whose kernels know one format alone, nor where other layers lose more or the module does not
        bear it; that is tried once for a shape, and found alike on all workers.
        """
        if inputs.dim() != 4 or inputs.dtype == torch.float64:
            return False
        shape, device = inputs.shape[1:], inputs.device
        if (shape, device.type) not in self._innermost:
            gains = gains_innermost(self.model, device)
            self._innermost[shape, device.type] = gains and bears_innermost(self.model, shape)
        return self._innermost[shape, device.type]

    def evaluate(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Logits [m, classes] in evaluation mode."""
        self.model.eval()
        logits: Tensor = functional_call(self.model, {**buffers, **parameters}, (inputs,))
        return logits

    def train(
        self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], inputs: Tensor, seed: int
    ) -> tuple[Tensor, Tensors]:
        """Logits in training mode, and how this batch would move BatchNorm's running statistics.

        Args:
            parameters: Trainable parameters.
            buffers: Buffers; BatchNorm's are not changed, and a model that changes others is refused beforehand.
                A BatchNorm layer that is frozen normalises with its own here too.
            inputs: [m, ...].
            seed: Seeds dropout.

        Returns:
            Logits [m, classes], of the inputs' type, and, for each running buffer, momentum · batch statistic: see
            `move_statistics`.
        """
        inputs = self.quick(inputs)
        self.model.train()
        for layer in self._frozen_norms:
            layer.eval()
        # A running buffer that starts at zero ends at momentum · statistic: exactly what is to be averaged over
        # micro-batches, in whatever order and on whatever worker they run.
        scratch = {key: torch.zeros_like(buffers[key]) for key in self.running_keys(buffers)}
        counted = {key: value.clone() for key, value in buffers.items() if key.endswith("num_batches_tracked")}
        with seeded(seed, inputs.device), self._computing(inputs.device):
            logits: Tensor = functional_call(self.model, {**buffers, **counted, **scratch, **parameters}, (inputs,))
        return logits.to(inputs.dtype), scratch

    def _computing(self, device: torch.device) -> AbstractContextManager[object]:
        return nullcontext() if self.autocast is None else torch.autocast(device.type, self.autocast)

    def gradient(
        self,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        inputs: Tensor,
        seed: int,
        objective: Callable[[Tensor], Tensor],
    ) -> tuple[Tensors, Tensor, Tensors]:
        """Gradient of a function of the logits in training mode.

        Args:
            parameters: Where; not changed.
            buffers: Not changed.
            inputs: [m, ...].
            seed: Seeds dropout.
            objective: Logits [m, classes] → scalar, a mean over the rows.

        Returns:
            The gradient, the logits, detached, and what `train` says of the statistics.
        """
        leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
        logits, statistics = self.train(leaves, buffers, inputs, seed)
        found = torch.autograd.grad(objective(logits), list(leaves.values()))
        return dict(zip(leaves, found, strict=True)), logits.detach(), statistics

    def move_statistics(self, buffers: Mapping[str, Tensor], moved: Mapping[str, Tensor]) -> Tensors:
        """The buffers after a step.

        Args:
            buffers: Buffers before the step.
            moved: Mean over the step's micro-batches of what `train` returned.

        Returns:
            running ← (1 − momentum) running + moved, and the batch counters advanced by one.
        """
        after = dict(buffers)
        for name, module in self.norms.items():
            counter = f"{name}.num_batches_tracked"
            if counter not in buffers:
                continue
            after[counter] = buffers[counter] + 1
            kept = 1.0 - (1.0 / after[counter] if module.momentum is None else module.momentum)
            for key in (f"{name}.running_mean", f"{name}.running_var"):
                after[key] = kept * buffers[key] + moved[key]
        return after

    def running_keys(self, buffers: Mapping[str, Tensor]) -> list[str]:
        """Names of BatchNorm's running means and variances among the buffers."""
        keys = (f"{name}.{kind}" for name in self.norms for kind in ("running_mean", "running_var"))
        return [key for key in keys if key in buffers]


def is_frozen(layer: _BatchNorm) -> bool:
    """Whether a BatchNorm layer always normalises with its running statistics, because nothing in it is trained."""
    own = [layer.weight, layer.bias]
    return layer.running_mean is not None and not any(value is None or value.requires_grad for value in own)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Run a block under a seed and leave the global generators as they were."""
    if device.type != "cpu":
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield
        return
    # torch.manual_seed would seed every other kind of device as well, and takes fifty times as long.
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)
