"""Exact replay of a whole training, backwards: torch.distributed where there is a process group, no Ray in it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from auditor.config import Config
from auditor.distributed.loop import all_reduce
from auditor.distributed.retraining import Retraining, drift_from
from auditor.distributed.trained_run import TrainedRun
from auditor.influence.replay import Cotangent, step_pullback
from auditor.sam import State
from auditor.sam.perturbation import global_norm
from auditor.storage import RunFolder
from auditor.trajectory.reader import RecordedStep

SHORTER_HORIZONS = (0.75, 0.5, 0.25, 0.1)
"""Shares of training after which a sweep notes what it has found so far."""


@dataclass(frozen=True)
class Sweep:
    """What a replay found."""

    influence: NDArray[np.float64]
    """[rows]: positive helps, negative harms; in nats of f."""
    drift: dict[int, float]
    """By checkpoint that was reached again: largest difference to the recorded parameters, relative to their norm."""
    predictability: float
    """‖λ_0‖ / ‖λ_T‖: how much the cotangent grew on its way back; large where training is chaotic."""
    first_step: int
    """The first step that was swept; later than 0 with a horizon."""
    shorter: dict[float, NDArray[np.float64]]
    """[rows] by shorter horizon: the influence through the last share of training alone, met on the way."""


def sweep(
    config: Config, run: RunFolder, device: torch.device, progress: Callable[[int], None] = lambda _: None
) -> Sweep | str:
    """Differentiate f, the loss of the query, through every recorded step, the last one first.

    Between two checkpoints the states are computed again from the earlier one, kept, and swept backwards; where they
    do not fit into `replay.memory_gib`, the segment is halved until they do.

    Collective: every worker of a process group calls it; alone it sweeps by itself.

    Args:
        config: The audit.
        run: Its run folder, training complete.
        device: This worker's device.
        progress: Told the number of steps swept, on the first rank.

    Returns:
        The influence of every training row, or in one sentence why it would be wrong; the same on every worker.

    Raises:
        StageError: Training has not ended.
    """
    trained = TrainedRun(config, run, device)
    return _Backwards(trained, progress).go()


class _Backwards:
    """The sweep's moving parts: the cotangent on its way back and what it has picked up."""

    def __init__(self, trained: TrainedRun, progress: Callable[[int], None]) -> None:
        self.trained = trained
        self.progress = progress
        self.training = Retraining(trained)
        self.cotangent = Cotangent.final(trained.validation_gradient())
        self.gradient = torch.zeros(trained.manifest.rows, dtype=torch.float64)
        self.drift: dict[int, float] = {}
        self.swept = 0
        self.passed: dict[float, torch.Tensor] = {}

    def go(self) -> Sweep | str:
        replay = self.trained.config.replay
        began = float(global_norm(self.cotangent.parameters.values()))
        first_step = self._first_step(replay.horizon)
        for segment, steps in self.trained.reader.recorded_steps(backwards=True):
            if segment.end_step <= first_step:
                break
            state = self.trained.reader.state(segment.first_step).to(self.trained.device)
            end = self._sweep(state, steps, first_step)
            recorded = self.trained.reader.state(segment.end_step).to(self.trained.device)
            self.drift[segment.end_step] = drift_from(recorded, end)
            if not self.drift[segment.end_step] <= replay.tolerance:
                return (
                    f"replay stopped at step {segment.end_step}: it differs from the recorded parameters by "
                    f"{self.drift[segment.end_step]:.1e}, more than replay.tolerance {replay.tolerance:.1e}"
                )
        grown = float(global_norm(self.cotangent.parameters.values())) / began
        found = {"all": self.gradient, **{str(horizon): value for horizon, value in self.passed.items()}}
        total = all_reduce({name: value.to(self.trained.device) for name, value in found.items()})
        if not (math.isfinite(grown) and bool(total["all"].isfinite().all())):
            return "replay overflowed on its way back: this training is too chaotic to be differentiated"
        influence = {name: -value.cpu().numpy() for name, value in total.items()}
        shorter = {horizon: influence[str(horizon)] for horizon in self.passed}
        return Sweep(influence["all"], self.drift, grown, first_step, shorter)

    def _sweep(self, state: State, steps: list[RecordedStep], first_step: int) -> State:
        """Sweep some neighbouring steps whose first one starts from `state`; returns the state after the last."""
        if len(steps) > self._states_that_fit(state):
            middle = len(steps) // 2
            half = state
            for step in steps[:middle]:
                half = self.training.forward(half, step)
            end = self._sweep(half, steps[middle:], first_step)
            self._sweep(state, steps[:middle], first_step)
            return end
        states = [state]
        for step in steps:
            states.append(self.training.forward(states[-1], step))
        for before, step in zip(reversed(states[:-1]), reversed(steps), strict=True):
            if step.index >= first_step:
                self._backward(before, step)
        return states[-1]

    def _backward(self, state: State, step: RecordedStep) -> None:
        trained = self.trained
        mine = list(self.training.micro_batches(step))
        self.cotangent, found = step_pullback(
            trained.network,
            state,
            [batch for _, batch in mine],
            trained.manifest.micro_batches,
            trained.perturbation,
            self.training.settings(step),
            self.cotangent,
            all_reduce,
        )
        for (index, _), weights in zip(mine, found, strict=True):
            rows = torch.from_numpy(step.micro_batches[index].astype(np.int64))
            self.gradient.index_add_(0, rows, weights.double().cpu())
        for horizon in SHORTER_HORIZONS:
            if horizon < self.trained.config.replay.horizon and step.index == self._first_step(horizon):
                self.passed[horizon] = self.gradient.clone()
        self.swept += 1
        if self.training.rank == 0:
            self.progress(self.swept)

    def _first_step(self, horizon: float) -> int:
        return round((1.0 - horizon) * self.trained.manifest.steps)

    def _states_that_fit(self, state: State) -> int:
        size = sum(
            value.numel() * value.element_size()
            for tensors in (state.parameters, state.momentum, state.buffers)
            for value in tensors.values()
        )
        return max(1, int(self.trained.config.replay.memory_gib * 2**30) // size)
