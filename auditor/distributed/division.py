"""How the workers divide a training step among them: by micro-batches or, where parameters are sharded, by rows."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from auditor.sam import MicroBatchResult, Network, State
from auditor.sam.perturbation import Tensors
from auditor.sam.sharded import ShardedNetwork
from auditor.trajectory import group


class Division:
    """Each worker has all parameters and computes micro-batches of its own.

    Args:
        network: On the device.
        micro_batches: J.
        device: This worker's.
    """

    def __init__(self, network: Network, micro_batches: int, device: torch.device) -> None:
        self.network = network
        self.recorded = share_of(micro_batches, group.rank(), group.world_size())
        """Micro-batches that this worker writes into the ledger."""
        self._device = device

    @property
    def computed(self) -> range:
        """Micro-batches that this worker takes part in."""
        return self.recorded

    def rows(self, rows: NDArray[np.integer]) -> NDArray[np.integer]:
        """This worker's part of a micro-batch's rows."""
        return rows

    def placed(self, state: State) -> State:
        """This worker's part of a whole state."""
        return state.to(self._device)

    def all_reduce(self, sums: Tensors) -> Tensors:
        """Sum over the workers what `sam_step` sums over its micro-batches. Collective."""
        return group.all_reduce(sums)

    def to_record(self, results: list[MicroBatchResult]) -> list[MicroBatchResult]:
        """The results of the recorded micro-batches from those of the computed ones. Collective."""
        return results


class RowDivision(Division):
    """Parameters are sharded; all workers compute every micro-batch together, each some of its rows.

    Args:
        network: Its micro-batches have at least as many rows as there are workers.
        micro_batches: J.
        device: This worker's.
    """

    def __init__(self, network: ShardedNetwork, micro_batches: int, device: torch.device) -> None:
        super().__init__(network, micro_batches, device)
        self._sharded = network
        self._computed = range(micro_batches)
        self._sizes = [len(part) for part in np.array_split(np.arange(network.micro_batch_size), group.world_size())]

    @property
    def computed(self) -> range:
        """Micro-batches that this worker takes part in."""
        return self._computed

    def rows(self, rows: NDArray[np.integer]) -> NDArray[np.integer]:
        """This worker's part of a micro-batch's rows."""
        return self._sharded.rows(rows)

    def placed(self, state: State) -> State:
        """This worker's part of a whole state."""
        return self._sharded.distribute(state)

    def all_reduce(self, sums: Tensors) -> Tensors:
        """The gradients are sums over the workers already; the loss is a mean over this worker's rows."""
        return {**sums, **group.all_reduce({"loss": self._share * sums["loss"]})}

    def to_record(self, results: list[MicroBatchResult]) -> list[MicroBatchResult]:
        """Put the rows of every micro-batch together again."""
        losses = group.all_reduce({"loss": self._share * torch.stack([one.loss for one in results])})["loss"]
        names = ("losses", "margins", "losses_perturbed", "margins_perturbed", "predicted")
        own = torch.stack([torch.stack([getattr(one, name).to(losses) for name in names]) for one in results])
        # Parts differ by one row at most.
        padded = torch.nn.functional.pad(own, (0, max(self._sizes) - own.shape[-1]))
        gathered = [torch.empty_like(padded) for _ in self._sizes]
        dist.all_gather(gathered, padded)
        every = torch.cat([part[..., :size] for part, size in zip(gathered, self._sizes, strict=True)], dim=-1)
        norms = [whole(one.grad_norm) for one in results]
        found = []
        for index in self.recorded:
            signals = dict(zip(names, every[index], strict=True))
            signals["predicted"] = signals["predicted"].to(results[index].predicted)
            found.append(
                MicroBatchResult(
                    **{**vars(results[index]), "loss": losses[index], "grad_norm": norms[index], **signals}
                )
            )
        return found

    @property
    def _share(self) -> float:
        return self._sharded.share(self._sizes[group.rank()])


def divide(
    model: nn.Module,
    micro_batches: int,
    micro_batch_size: int,
    device: torch.device,
    sharded: bool,
    autocast: torch.dtype | None = None,
) -> Division:
    """The division that is asked for; one worker alone has all parameters in any case.

    Args:
        model: On the CPU; it is moved, and where it is sharded, changed in place.
        micro_batches: J.
        micro_batch_size: m.
        device: This worker's.
        sharded: Whether parameters are.
        autocast: See `Network`; not where parameters are sharded.

    Raises:
        ValueError: The network cannot be sharded.
    """
    if sharded and group.world_size() > 1:
        return RowDivision(ShardedNetwork(model, micro_batch_size, device), micro_batches, device)
    return Division(Network(model.to(device), autocast), micro_batches, device)


def share_of(micro_batches: int, rank: int, world_size: int) -> range:
    """Indices of the micro-batches that a rank computes: neighbouring ones, shares that differ by one at most."""
    return range(rank * micro_batches // world_size, (rank + 1) * micro_batches // world_size)


def whole(value: Tensor) -> Tensor:
    """A tensor of which this worker may hold a part; collective where it does."""
    if not isinstance(value, DTensor):
        return value
    found: Tensor = value.full_tensor()
    return found
