"""A network whose parameters are shared out over the ranks of a process group, for models that fit on none of them.

Parameters, and so gradients, perturbations and the optimizer's moments, are DTensors of which every rank holds a part
(FSDP2, `torch.distributed.fsdp.fully_shard`); a block's parameters are gathered while a pass needs them. All ranks
gather the same θ + ε, so they compute one micro-batch together, each some of its rows: the objective is the same as
that of whole parameters, where each rank computes micro-batches of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from auditor.sam.batch_norm import PLAIN, SharedBatchNorm
from auditor.sam.network import Network, is_frozen
from auditor.sam.perturbation import Tensors
from auditor.sam.state import State

_LEAST = 2**20
"""Parameters that are gathered at a time, at least: many small messages would cost more than they save."""
_SEEDS = range(8)
"""Tried to find out whether a network draws random numbers."""


def why_not_sharded(model: nn.Module) -> str | None:
    """What of a network needs all rows of a micro-batch on one rank, in words; None where nothing does."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and not is_frozen(module) and type(module) not in PLAIN:
            return f"{name} is {type(module).__name__}, a BatchNorm of its own kind; torch's go, and GroupNorm"
        chance = module.p if isinstance(module, _DropoutNd) else getattr(module, "dropout", 0.0)
        if isinstance(chance, float) and chance > 0:
            return f"{name} drops out values at random, which would differ with the number of workers"
    for name, value in model.named_parameters():
        if value.dim() == 0 or not value.is_contiguous():
            return f"{name} is {'a scalar' if value.dim() == 0 else 'not contiguous'}, which cannot be cut into parts"
    return None


def why_rows_cannot_part(network: Network, inputs: Tensor) -> str | None:
    """What in training would depend on how a micro-batch's rows are shared out, found by trying some; None if nothing.

    Args:
        network: Not sharded.
        inputs: A few rows, [n, ...].

    Returns:
        In words. Samples that act on each other are found in networks without live BatchNorm alone.
    """
    parameters, buffers = network.parameters(), network.buffers()

    def logits(rows: Tensor, seed: int = 0) -> Tensor:
        return network.train(parameters, buffers, rows, seed)[0]

    with torch.no_grad():
        together = logits(inputs)
        if not all(torch.equal(together, logits(inputs, seed)) for seed in _SEEDS):
            return "training draws random numbers, which would differ with the number of workers"
        if network.norms or len(inputs) < 2:
            return None
        parts = torch.cat([logits(part) for part in inputs.tensor_split(2)])
    if torch.allclose(together, parts, rtol=1e-3, atol=1e-3 * float(together.abs().max())):
        return None
    return "samples of a micro-batch act on each other, which workers that share it out could not see"


class ShardedNetwork(Network):
    """Runs one module whose parameters are sharded; collective in every pass.

    Args:
        model: The module, on the CPU, with the same values on every rank. It is changed in place: its parameters move
            to the device block by block, and BatchNorm layers sum their statistics over the ranks.
        micro_batch_size: m.
        device: This rank's.

    Raises:
        ValueError: The network cannot be shared out; see `why_not_sharded`.
    """

    def __init__(self, model: nn.Module, micro_batch_size: int, device: torch.device) -> None:
        if (reason := why_not_sharded(model)) is not None:
            raise ValueError(reason)
        share_statistics(model)
        super().__init__(model)
        self.micro_batch_size = micro_batch_size
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        if device.type == "cuda":
            torch.cuda.set_device(device)  # where fully_shard puts what it is given
        mesh = init_device_mesh(device.type, (self.world_size,))
        for block in blocks(model):
            fully_shard(block, mesh=mesh)
        self._root: FSDPModule = fully_shard(model, mesh=mesh)
        for module in model.modules():  # what belongs to no block
            for name, value in module.named_buffers(recurse=False):
                setattr(module, name, value.to(device))
        self._own: dict[str, Tensor] = dict(model.named_parameters())
        self._device = device

    def rows(self, rows: NDArray[np.integer]) -> NDArray[np.integer]:
        """This rank's part of a micro-batch's rows."""
        part: NDArray[np.integer] = np.array_split(rows, self.world_size)[self.rank]
        return part

    def share(self, part: int) -> float:
        """What a mean over a part of a micro-batch counts for in the mean over all of it."""
        return part / self.micro_batch_size

    def innermost(self, inputs: Tensor) -> bool:
        """No: a trial with the module itself would be a collective pass."""
        del inputs
        return False

    def train(
        self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], inputs: Tensor, seed: int
    ) -> tuple[Tensor, Tensors]:
        """Logits of this rank's rows in training mode, and the statistics of all ranks' rows."""
        with torch.no_grad():
            for name, value in parameters.items():
                self._own[name].copy_(value)
        # Frozen parameters are in the module already, and never change.
        plain = {name: value for name, value in buffers.items() if not isinstance(value, DTensor)}
        logits, statistics = super().train({}, plain, inputs, seed)
        if not torch.is_grad_enabled():
            # Without a backward pass the root's parameters would stay gathered, and the next pass see these.
            self._root.reshard()
        return logits, statistics

    def gradient(
        self,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        inputs: Tensor,
        seed: int,
        objective: Callable[[Tensor], Tensor],
    ) -> tuple[Tensors, Tensor, Tensors]:
        """See `Network.gradient`: the mean over the rows of all ranks, of which each passes its own."""
        logits, statistics = self.train(parameters, buffers, inputs, seed)
        # The ranks' gradients are averaged on their way back, where their sum is meant.
        torch.autograd.backward(self.world_size * self.share(len(inputs)) * objective(logits))
        gradient = {}
        for name, value in parameters.items():
            found = self._own[name].grad
            gradient[name] = torch.zeros_like(value) if found is None else found.detach()
            self._own[name].grad = None
        return gradient, logits.detach(), statistics

    def distribute(self, state: State) -> State:
        """This rank's part of a state.

        Args:
            state: Whole on every rank and on any device, as a checkpoint is read; parts of it may be in place already.
        """

        def part(kind: str, name: str, value: Tensor) -> Tensor:
            like: Tensor | None = self._own.get(name)
            if like is None and kind == "memory":  # a prefix and a parameter's name
                like = self._own.get(name.partition(".")[2])
            if isinstance(value, DTensor):
                return value
            if not isinstance(like, DTensor):
                return value.to(self._device)
            # Every rank cuts its part out of what it has; nothing is sent.
            return distribute_tensor(value.to(self._device), like.device_mesh, like.placements, src_data_rank=None)

        return State(
            **{
                kind: {name: part(kind, name, value) for name, value in tensors.items()}
                for kind, tensors in state.parts()
            }
        )


def share_statistics(model: nn.Module) -> None:
    """Let live BatchNorm layers normalise with the statistics of all ranks' rows; frozen ones stay."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm) and type(child) in PLAIN and not is_frozen(child):
                setattr(parent, name, SharedBatchNorm(child))


def blocks(model: nn.Module) -> list[nn.Module]:
    """Modules below the root whose parameters are gathered together, innermost first.

    A module is one where what is not gathered in it already comes to `_LEAST` parameters. Lists of modules have no
    forward pass in which they could be gathered, and attention reads its layers' weights without calling them. Weights
    that are tied to others outside a module stay with what is around both.
    """
    found: list[nn.Module] = []
    uses = Counter(id(value) for _, value in model.named_parameters(remove_duplicate=False))

    def is_tied(module: nn.Module) -> bool:
        own = Counter(id(value) for _, value in module.named_parameters(remove_duplicate=False))
        return any(uses[key] > count for key, count in own.items())

    def visit(module: nn.Module) -> int:
        """Parameters that are still to be gathered."""
        own = sum(value.numel() for value in module.parameters(recurse=False))
        if isinstance(module, nn.MultiheadAttention):
            return sum(value.numel() for value in module.parameters())
        below = own + sum(visit(child) for child in module.children())
        if below < _LEAST or module is model or isinstance(module, (nn.ModuleList, nn.ModuleDict)) or is_tied(module):
            return below
        found.append(module)
        return 0

    visit(model)
    return found
