"""The trained objective at the end of training, its derivatives shared by all workers; no Ray in it.

The first rank decides what is computed next and the others serve it, so that no rounding, which may differ from
machine to machine, ever makes two of them go different ways.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from auditor import counters
from auditor.distributed.division import share_of
from auditor.distributed.loop import StepInputs
from auditor.distributed.trained_run import TrainedRun
from auditor.influence import hif
from auditor.influence.hif import System, flatten, unflatten
from auditor.sam import MicroBatch, Tensors
from auditor.trajectory import group


class _Ask(IntEnum):
    """What the first rank has the others compute."""

    END = 0
    TRANSPOSED = 1
    FORWARD = 2
    ROWS = 3
    HELD_EFFECT = 4
    EFFECT = 5


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
        state = trained.state(trained.manifest.steps)
        self.parameters, self._state = state.parameters, state
        decay = trained.decay_scales()
        self._decay = None if decay is None else flatten(decay)
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
        """Jᵀ v without SGD's λ and damping, [p]; called on the first rank, while the others serve."""
        return self._decayed(vector, self._ask(_Ask.TRANSPOSED, system, vector))

    def forward_product(self, system: System, vector: Tensor) -> Tensor:
        """J v without SGD's λ and damping, [p]; called on the first rank."""
        return self._decayed(vector, self._ask(_Ask.FORWARD, system, vector))

    def row_products(self, system: System, vector: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """⟨s, ∂G/∂w_k⟩ of every row, [rows], with ε held and through ε; called on the first rank."""
        held, through = self._ask(_Ask.ROWS, system, vector).cpu().numpy()
        return held, through

    def weights_effect(self, system: System, weights: Tensor, held: bool) -> Tensor:
        """Σ_k ẇ_k ∂G/∂w_k, [p], for ẇ [rows], with ε held or with the part through it; called on the first rank."""
        like = next(iter(self.parameters.values()))
        return self._ask(_Ask.HELD_EFFECT if held else _Ask.EFFECT, system, weights.to(like))

    def serve(self) -> None:
        """Take part in what the first rank asks for, until it releases; called on the others."""
        size = sum(value.numel() for value in self.parameters.values())
        like = next(iter(self.parameters.values()))
        request = torch.zeros(2, dtype=torch.int64, device=like.device)
        while True:
            dist.broadcast(request, 0)
            ask, system = request.tolist()
            if ask == _Ask.END:
                return
            vector = like.new_empty(self.rows if ask in (_Ask.HELD_EFFECT, _Ask.EFFECT) else size)
            dist.broadcast(vector, 0)
            self._answer(_Ask(ask), System(system), vector)

    def release(self) -> None:
        """Let the others go; called on the first rank, whatever happened."""
        if self._world_size > 1:
            dist.broadcast(torch.tensor([_Ask.END, 0], device=self._trained.device), 0)

    def _decayed(self, vector: Tensor, product: Tensor) -> Tensor:
        """The product of J with AdamW's decay, which is no multiple of the unit matrix as SGD's is."""
        return product if self._decay is None else product + self._decay * vector

    def _ask(self, ask: _Ask, system: System, vector: Tensor) -> Tensor:
        if self._world_size > 1:
            dist.broadcast(torch.tensor([ask, system], device=self._trained.device), 0)
            dist.broadcast(vector, 0)
        self._passes += 1
        self._progress(self._passes)
        return self._answer(ask, system, vector)

    def _answer(self, ask: _Ask, system: System, vector: Tensor) -> Tensor:
        if ask is _Ask.ROWS:
            return self._row_products(system, vector)
        if ask in (_Ask.HELD_EFFECT, _Ask.EFFECT):
            return self._weights_effect(system, vector, held=ask is _Ask.HELD_EFFECT)
        return self._product(hif.product if ask is _Ask.FORWARD else hif.transposed_product, system, vector)

    def _product(self, product: Callable[..., Tensors], system: System, vector: Tensor) -> Tensor:
        trained, tensors = self._trained, unflatten(vector, self.parameters)
        total = torch.zeros_like(vector)
        for _, share, batch in self._mine(self._some):
            found = product(system, trained.network, self._state, batch, trained.perturbation, tensors)
            total += share * flatten(found)
        return group.all_reduce({"product": total})["product"]

    def _row_products(self, system: System, vector: Tensor) -> Tensor:
        trained, tensors = self._trained, unflatten(vector, self.parameters)
        total = torch.zeros(2, self.rows, dtype=torch.float64)
        for rows, share, batch in self._mine(self._all):
            found = hif.row_products(system, trained.network, self._state, batch, trained.perturbation, tensors)
            total[:, torch.from_numpy(rows.astype(np.int64))] = share * torch.stack(found).double().cpu()
        return group.all_reduce({"rows": total.to(trained.device)})["rows"]

    def _weights_effect(self, system: System, weights: Tensor, held: bool) -> Tensor:
        trained = self._trained
        total = torch.zeros_like(flatten(self.parameters))
        for rows, share, batch in self._mine(self._all):
            own = weights[torch.from_numpy(rows.astype(np.int64)).to(weights.device)]
            if not bool(own.any()):
                continue
            found = hif.weights_effect(system, trained.network, self._state, batch, trained.perturbation, own, held)
            total += share * flatten(found)
        return group.all_reduce({"effect": total})["effect"]

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
