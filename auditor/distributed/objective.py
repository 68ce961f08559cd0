"""The trained objective at the end of training, its derivatives shared by all workers; no Ray in it.

The first rank decides what is computed next and the others serve it, so that no rounding, which may differ from
machine to machine, ever makes two of them go different ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from auditor import counters
from auditor.distributed.loop import StepInputs, share_of
from auditor.distributed.trained_run import TrainedRun
from auditor.influence.hif import System, flatten, row_products, transposed_product, unflatten
from auditor.sam import MicroBatch
from auditor.trajectory import group

_END, _PRODUCT, _ROWS = range(3)


class Objective:
    """Mean over micro-batches of all training rows, as one more epoch would take them: m-SAM's own objective.

    Every row is in exactly one micro-batch. They are cut evenly, so that no micro-batch is much smaller than the
    trained m: a small one has a noisier ε and other BatchNorm statistics. Augmentation draws for the epoch after the
    last.

    Args:
        trained: The finished training.
        rows: How many rows, drawn by a counter, stand for all of them in products; None for all.
        progress: Told the number of passes over the rows so far, on the first rank.
    """

    def __init__(
        self, trained: TrainedRun, rows: int | None = None, progress: Callable[[int], None] = lambda _: None
    ) -> None:
        self._trained = trained
        self._progress = progress
        self._passes = 0
        self.rank, self._world_size = group.rank(), group.world_size()
        state = trained.reader.state(trained.manifest.steps).to(trained.device)
        self.parameters, self._buffers = state.parameters, state.buffers
        self._inputs = StepInputs(trained.config, trained.train, trained.device)
        self.rows = trained.manifest.rows
        order = counters.permutation("order", self.rows, trained.manifest.seed, trained.manifest.epochs)
        self._all = _cut(order, trained.manifest.micro_batch_size)
        self._some = self._all
        if rows is not None and rows < self.rows:
            self._some = _cut(order[:rows], trained.manifest.micro_batch_size)

    @property
    def rows_in_products(self) -> int:
        """Rows that stand for all of them in products."""
        return sum(map(len, self._some))

    def product(self, system: System, vector: Tensor) -> Tensor:
        """Jᵀ v without λ and damping, [p]; called on the first rank, while the others serve."""
        self._tell(_PRODUCT, system, vector)
        return self._product(system, vector)

    def row_products(self, system: System, vector: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """⟨s, ∂G/∂w_k⟩ of every row, [rows], with ε held and through ε; called on the first rank."""
        self._tell(_ROWS, system, vector)
        return self._row_products(system, vector)

    def serve(self) -> None:
        """Take part in what the first rank asks for, until it releases; called on the others."""
        size = sum(value.numel() for value in self.parameters.values())
        like = next(iter(self.parameters.values()))
        request = torch.zeros(2, dtype=torch.int64, device=like.device)
        while True:
            dist.broadcast(request, 0)
            task, system = request.tolist()
            if task == _END:
                return
            vector = like.new_empty(size)
            dist.broadcast(vector, 0)
            (self._product if task == _PRODUCT else self._row_products)(System(system), vector)

    def release(self) -> None:
        """Let the others go; called on the first rank, whatever happened."""
        if self._world_size > 1:
            dist.broadcast(torch.tensor([_END, 0], device=self._trained.device), 0)

    def _tell(self, task: int, system: System, vector: Tensor) -> None:
        if self._world_size > 1:
            dist.broadcast(torch.tensor([task, int(system)], device=self._trained.device), 0)
            dist.broadcast(vector, 0)
        self._passes += 1
        self._progress(self._passes)

    def _product(self, system: System, vector: Tensor) -> Tensor:
        trained, tensors = self._trained, unflatten(vector, self.parameters)
        total = torch.zeros_like(vector)
        for _, share, batch in self._mine(self._some):
            found = transposed_product(
                system, trained.network, self.parameters, self._buffers, batch, trained.perturbation, tensors
            )
            total += share * flatten(found)
        return group.all_reduce({"product": total})["product"]

    def _row_products(self, system: System, vector: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        trained, tensors = self._trained, unflatten(vector, self.parameters)
        total = torch.zeros(2, self.rows, dtype=torch.float64)
        for rows, share, batch in self._mine(self._all):
            found = row_products(
                system, trained.network, self.parameters, self._buffers, batch, trained.perturbation, tensors
            )
            total[:, torch.from_numpy(rows.astype(np.int64))] = share * torch.stack(found).double().cpu()
        held, through = group.all_reduce({"rows": total.to(trained.device)})["rows"].cpu().numpy()
        return held, through

    def _mine(self, parts: list[NDArray[np.int32]]) -> Iterator[tuple[NDArray[np.int32], float, MicroBatch]]:
        """This worker's micro-batches with their rows and their share m_j / n in the mean."""
        manifest = self._trained.manifest
        count = sum(map(len, parts))
        for index in share_of(len(parts), self.rank, self._world_size):
            batch = self._inputs.micro_batch(manifest.steps, manifest.epochs, index, parts[index])
            yield parts[index], len(parts[index]) / count, batch


def _cut(order: NDArray[np.int32], size: int) -> list[NDArray[np.int32]]:
    """Parts of as nearly `size` rows as can be, which differ by one at most."""
    return np.array_split(order, max(1, round(len(order) / size)))
